"""`mlbridge datasets`: what can be trained on."""

import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from bridge.cli.output import Json, print_json, print_table, say
from bridge.errors import DatasetError
from bridge.settings import load_settings
from bridge.training.datasets import DatasetStore, load_room
from bridge.training.request import MOST_CHANNELS, SMALLEST_SIDE, TARGETS, parse_request

datasets = typer.Typer(
    no_args_is_help=True,
    help="Add, list, show, validate and remove datasets, in the folder DATASET_ROOT.",
)


_SHOWN_HASH = len("sha256:") + 12
_SHOWN_CLASSES = 10
_INPUT_AND_TARGET = 2  # columns


def _store() -> DatasetStore:
    return DatasetStore(load_settings().dataset_root)


@datasets.command("list")
def list_datasets(*, json: Json = False) -> None:
    """List the datasets.

    Example: `mlbridge datasets list`
    """
    store = _store()
    rows = [_describe(store, name) for name in store.ids()]
    if json:
        print_json(rows)
        return
    if not rows:
        say(
            f"no datasets in {store.root.absolute()} (DATASET_ROOT); `mlbridge datasets add NAME "
            "SOURCE` makes one"
        )
        return
    print_table(
        f"datasets in {store.root}",
        ("dataset", "layout", "rows", "columns", "size", "hash"),
        [
            (row["dataset_id"], row["problem"])
            if "problem" in row
            else (
                row["dataset_id"],
                row["layout"],
                ", ".join(f"{split} {count:,}" for split, count in row["splits"].items()),
                ", ".join(row["columns"]),
                f"{row['size_bytes']:,} B",
                row["dataset_hash"][:_SHOWN_HASH],
            )
            for row in rows
        ],
    )


def _describe(store: DatasetStore, name: str) -> dict[str, Any]:
    """One that cannot be read does not hide the others."""
    try:
        return store.describe(name)
    except DatasetError as error:
        return {"dataset_id": name, "problem": str(error)}


@datasets.command("show")
def show(
    dataset: Annotated[str, typer.Argument(help="A dataset's name.")], *, json: Json = False
) -> None:
    """Show a dataset's splits and columns.

    Example: `mlbridge datasets show digits`
    """
    _show(_store().describe(dataset), json=json)


@datasets.command("add")
def add(
    dataset: Annotated[str, typer.Argument(help="Its name from now on.")],
    source: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="A .parquet, .csv or .npz file, or a folder with `train.*` and perhaps "
            "`validation.*`, or one of images in a folder for each class (`CLASS/*.png`, or "
            "`train/CLASS/*.png`), or one that `datasets` saved.",
        ),
    ],
    *,
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Resize every image of a folder: 32x32."),
    ] = None,
    json: Json = False,
) -> None:
    """Copy data into the dataset store.

    Example: `mlbridge datasets add iris iris.csv`
    """
    _show(_store().add(dataset, source, image_size=_size(size)), json=json)


@datasets.command("remove")
def remove(
    dataset: Annotated[str, typer.Argument(help="A dataset's name.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a dataset, for good. Asks first. Models that were trained on it stay.

    Example: `mlbridge datasets remove iris --yes`
    """
    store = _store()
    place = store.path(dataset)
    if not yes:
        typer.confirm(f"remove {place}?", abort=True, err=True)
    store.remove(dataset)
    say(f"removed {place}")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if found is None:
        raise typer.BadParameter(f"expected WIDTHxHEIGHT in pixels, such as 32x32, got {text!r}")
    return int(found[1]), int(found[2])


@datasets.command("validate")
def validate(
    dataset: Annotated[str, typer.Argument(help="A dataset's name.")],
    *,
    architecture: Annotated[
        str, typer.Option(help="As for a training: transformer alone takes text and tokens.")
    ] = "mlp",
    target: Annotated[
        str | None, typer.Option(help="Column to predict. Default: as for a training.")
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(help="One of several columns to predict, side by side; repeat for each."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="Column to learn from; may be repeated. Default: all."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="classification, multi-label or regression.")
    ] = None,
    json: Json = False,
) -> None:
    """Check a dataset as a training would; exit code 1 if it cannot be trained on.

    Example: `mlbridge datasets validate iris --target species`

    Example: `mlbridge datasets validate reviews --architecture transformer --input text`

    Example: `mlbridge datasets validate films --targets comedy --targets drama`
    """
    settings = load_settings()
    model = {
        "architecture": architecture,
        "target": target,
        "targets": targets or None,
        "inputs": inputs or None,
        "task": task,
    }
    request = parse_request(dataset, {**model, "model_id": "any"}, {}, settings)
    report = load_room("opening").validate(
        _store(), request.dataset_id, request.model, request.hyperparameters
    )
    if json:
        print_json(report)
    else:
        _print_report(report)
    if not report["usable"]:
        raise typer.Exit(1)


def _print_report(report: dict[str, Any]) -> None:
    if "columns" in report:
        print_table(
            f"{report['dataset_id']}: columns",
            ("column", "datatype", "shape of a row", "missing", "not finite", "classes"),
            [
                (
                    name,
                    column["datatype"],
                    "ragged" if column.get("ragged") else column["shape"],
                    column.get("missing"),
                    column.get("not_finite"),
                    _classes(column.get("classes")),
                )
                for name, column in report["columns"].items()
            ],
        )
    for problem in report["problems"]:
        say(f"problem: {problem}")
    if report["usable"]:
        rows = report["rows"]
        say(
            f"usable: {report['task']} of {report['target']!r} from {_inputs(report)}; "
            f"{rows['train']:,} rows to train on, {rows['validation']:,} to judge by"
        )


def _inputs(report: dict[str, Any]) -> str:
    words = report.get("words")
    if words is None:
        return f"rows of shape {report['input_shape']}"
    kind, each = ("text", "words of each") if words["text"] else ("tokens", "in a row")
    return f"{kind}: {words['length']:,} {each}, a vocabulary of {words['vocabulary']:,}"


def _classes(classes: dict[str, int] | None) -> str | None:
    if classes is None:
        return None
    shown = [f"{name} {rows:,}" for name, rows in list(classes.items())[:_SHOWN_CLASSES]]
    more = len(classes) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _show(found: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(found)
        return
    splits = ", ".join(f"{name} {rows:,} rows" for name, rows in found["splits"].items())
    print_table(
        f"{found['dataset_id']} ({found['layout']}): {splits}",
        ("column", "datatype", "shape of a row"),
        [(name, c["datatype"], c["shape"]) for name, c in found["columns"].items()],
    )
    say(f"Hash:  {found['dataset_hash']}")
    say(f"Train on it:  {_training_command(found)}")


def _training_command(found: dict[str, Any]) -> str:
    """The command that trains on a dataset; words in capitals are for the person to fill in."""
    columns: dict[str, Any] = found["columns"]
    targets = [name for name in TARGETS if name in columns]
    target = targets[0] if len(targets) == 1 else None
    others = [name for name in columns if name != target]
    told = "" if target else " -c target=COLUMN"
    if all(_is_text(columns[name]) for name in others) and len(columns) == _INPUT_AND_TARGET:
        told += f" -c input={shlex.quote(others[0]) if target else 'COLUMN'}"
        architecture = "transformer"
    else:
        architecture = _architecture_for([column["shape"] for column in columns.values()])
    return f"mlbridge train {found['dataset_id']} --architecture {architecture}{told}"


def _architecture_for(shapes: list[list[int]]) -> str:
    """One that takes rows of numbers like these; `cnn` has bounds that narrow sequences miss."""
    shape = max(shapes, key=len, default=[])
    if len(shape) in {2, 3} and min(shape[-2:]) >= SMALLEST_SIDE:
        channels = shape[0] if len(shape) == 3 else 1  # noqa: PLR2004
        if channels <= MOST_CHANNELS:
            return "cnn"
    return "transformer" if len(shape) == 2 else "mlp"  # noqa: PLR2004


def _is_text(column: dict[str, Any]) -> bool:
    return column["datatype"] in {"string", "large_string"} and not column["shape"]
