"""`mlbridge train`: queue a training and follow it."""

import asyncio
from typing import Annotated, Any

import orjson
import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from bridge.cli.output import Json, console, errors, print_json, print_table, sparkline
from bridge.client import BridgeClient, TaskHandle
from bridge.errors import InvalidTrainingRequestError

_REFRESH_S = 0.2
_CURVE_WIDTH = 24


def train(
    dataset: Annotated[str, typer.Argument(help="A dataset; `mlbridge datasets list` shows them.")],
    architecture: Annotated[
        str, typer.Option(help="mlp, cnn, transformer, or one that is installed.")
    ] = "mlp",
    model_id: Annotated[
        str | None, typer.Option(help="The model's name. Default: the dataset's.")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config", "-c", metavar="KEY=VALUE", help="Further entries of model_config."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Hyperparameters: epochs=20."),
    ] = None,
    *,
    priority: Annotated[
        int, typer.Option(min=0, max=255, help="A training with a higher one has the next turn.")
    ] = 0,
    key: Annotated[
        str | None,
        typer.Option(help="The same key again, within a day, is the same training: it runs once."),
    ] = None,
    follow_it: Annotated[
        bool,
        typer.Option("--follow/--no-follow", "--wait/--no-wait", help="Or print its id and leave."),
    ] = True,
    json: Json = False,
) -> None:
    """Queue a training; follow it until its model is live.

    Ctrl-C stops following, not the training. Values are read as JSON where they are JSON.

    Example: `mlbridge train digits --architecture cnn --set epochs=8`
    """
    model_config = {"architecture": architecture, **_pairs(config)}
    if model_id is not None:
        model_config["model_id"] = model_id
    request = (dataset, model_config, _pairs(settings))
    result = asyncio.run(_train(request, priority, key, wait=follow_it))
    if json:
        print_json(result)
    elif follow_it:
        show_trained(result)
    else:
        task_id = result["task_id"]
        console.print(f"queued as {task_id}; `mlbridge status {task_id}`", soft_wrap=True)


async def _train(
    request: tuple[str, dict[str, Any], dict[str, Any]],
    priority: int,
    key: str | None,
    *,
    wait: bool,
) -> dict[str, Any]:
    async with BridgeClient() as client:
        handle = await client.train(*request, priority=priority, idempotency_key=key)
        if not wait:
            return {"task_id": handle.task_id}
        return {"task_id": handle.task_id, **await follow(handle)}


async def follow(handle: TaskHandle) -> dict[str, Any]:
    """Show a training's progress on standard error until it ends, and return its result.

    Raises:
        BridgeError: the training ended in it.
    """
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    waiting = asyncio.create_task(handle.result())
    try:
        with Progress(*columns, console=errors) as display:
            bar = display.add_task("queued", total=None, figures="")
            while not (await asyncio.wait([waiting], timeout=_REFRESH_S))[0]:
                report = await handle.progress()
                if report and "epoch" in report:
                    display.update(
                        bar,
                        description=_curve(report) or "training",
                        completed=report["epoch"],
                        total=report["epochs"],
                        figures=_figures(report),
                    )
                elif report:  # the last epoch's figures stay
                    display.update(bar, description=str(report.get("stage")))
    finally:
        waiting.cancel()
    result: dict[str, Any] = await waiting
    return result


def show_trained(result: dict[str, Any]) -> None:
    """Print what a training ended with."""
    rows = [
        ("model", f"{result['model_name']} version {result['model_version']}, live"),
        *(("metric " + name, _short(value)) for name, value in result["metrics"].items()),
        *(("parity " + name, _short(value)) for name, value in result["parity"].items()),
        *(
            ("variant " + name, _short(value))
            for name, value in result.get("variant", {}).items()
            if name != "metrics"
        ),
        ("seconds", _short(result["duration_s"])),
    ]
    print_table("trained", ("what", "value"), rows)


def _curve(report: dict[str, Any]) -> str:
    losses = [loss for _, loss, _ in report.get("curve") or ()]
    return sparkline(losses[:: 1 + len(losses) // _CURVE_WIDTH]) if losses else ""


def _figures(report: dict[str, Any]) -> str:
    shown = [
        f"{name} {_short(report[name])}" for name in ("loss", "samples_per_s") if name in report
    ]
    if report.get("metric"):
        shown.append(f"{report['metric']} {_short(report.get('value'))}")
    if report.get("slice", 1) > 1:
        shown.append(f"slice {report['slice']}")
    if report.get("time_left_s") is not None:
        shown.append(f"{report['time_left_s']:.0f} s left")
    return ", ".join(shown)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pairs(items: list[str] | None) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for item in items or []:
        key, separator, text = item.partition("=")
        if not key or not separator:
            raise InvalidTrainingRequestError(f"expected KEY=VALUE, got {item!r}")
        try:
            pairs[key] = orjson.loads(text)
        except orjson.JSONDecodeError:
            pairs[key] = text
    return pairs
