"""`mlbridge datasets`: what can be trained on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bridge.cli.output import Json, console, print_json, print_table
from bridge.settings import load_settings
from bridge.training.datasets import DatasetStore
from bridge.training.request import TARGETS

datasets = typer.Typer(
    no_args_is_help=True, help="List, show and add datasets, in the folder DATASET_ROOT."
)


def _store() -> DatasetStore:
    return DatasetStore(load_settings().dataset_root)


@datasets.command("list")
def list_datasets(*, json: Json = False) -> None:
    """List the datasets.

    Example: `mlbridge datasets list`
    """
    store = _store()
    rows = [store.describe(name) for name in store.ids()]
    if json:
        print_json(rows)
        return
    print_table(
        f"datasets in {store.root}",
        ("dataset", "layout", "rows", "columns", "size"),
        [
            (
                row["dataset_id"],
                row["layout"],
                ", ".join(f"{split} {count:,}" for split, count in row["splits"].items()),
                ", ".join(row["columns"]),
                f"{row['size_bytes']:,} B",
            )
            for row in rows
        ],
    )


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
            help="A .parquet, .csv or .npz file, or a folder with train.* and perhaps "
            "validation.*, or one that `datasets` saved.",
        ),
    ],
    *,
    json: Json = False,
) -> None:
    """Copy data into the dataset store.

    Example: `mlbridge datasets add iris iris.csv`
    """
    _show(_store().add(dataset, source), json=json)


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
    console.print(
        f"Train on it:  {_training_command(found)}", markup=False, highlight=False, soft_wrap=True
    )


def _training_command(found: dict[str, Any]) -> str:
    """The command that trains on a dataset; words in capitals are for the person to fill in."""
    images = any(len(column["shape"]) > 1 for column in found["columns"].values())
    command = f"mlbridge train {found['dataset_id']} --architecture {'cnn' if images else 'mlp'}"
    return (
        command if len(set(TARGETS) & set(found["columns"])) == 1 else f"{command} -c target=COLUMN"
    )
