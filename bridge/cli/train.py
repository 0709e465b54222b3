"""`mlbridge train`: queue a training and follow it."""

from typing import Annotated, Any

import orjson
import typer

from bridge.cli.follow import follow_or_leave, run_followed, show_trained
from bridge.cli.output import Json, print_json, say
from bridge.client import BridgeClient
from bridge.errors import InvalidTrainingRequestError


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

    Ctrl-C stops following, not the training: `mlbridge follow ID` follows it again. Values are read
    as JSON where they are JSON.

    Example: `mlbridge train digits --architecture cnn --set epochs=8`
    """
    model_config = {"architecture": architecture, **_pairs("--config", config)}
    if model_id is not None:
        model_config["model_id"] = model_id
    request = (dataset, model_config, _pairs("--set", settings))
    result = run_followed(_train(request, priority, key, wait=follow_it))
    if json:
        print_json(result)
    elif follow_it:
        show_trained(result)
    else:
        task_id = result["task_id"]
        say(f"queued as {task_id}; `mlbridge follow {task_id}`")


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
        title = f"training {request[1].get('model_id', request[0])}"
        return await follow_or_leave(client, handle, title)


def _pairs(option: str, items: list[str] | None) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for item in items or []:
        key, separator, text = item.partition("=")
        if not key or not separator:
            raise InvalidTrainingRequestError(f"{option}: expected KEY=VALUE, got {item!r}")
        try:
            pairs[key] = orjson.loads(text)
        except orjson.JSONDecodeError:
            pairs[key] = text
    return pairs
