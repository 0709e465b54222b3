"""`mlbridge follow`: watch a training until it ends. `mlbridge train` does the same.

On a terminal a display of a few lines that renews itself; else a line of text now and then. Both go
to standard error: standard output is for what the command ends with.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.live import Live

from bridge.cli.output import Json, errors, print_json, print_table, say
from bridge.cli.training_view import TrainingView, short
from bridge.client import BridgeClient, TaskHandle
from bridge.errors import QueueError, outcome_of
from bridge.names import check_task_id

EXIT_INTERRUPTED = 130
"""As shells have it for Ctrl-C."""

_LOOK_EVERY_S = 0.25
_LINE_EVERY_S = 5.0
_READ_S = 5.0  # Redis may hang; the display must not


class Interrupted(Exception):  # noqa: N818 - no error: somebody pressed Ctrl-C
    """Following ended; the training goes on."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id


def follow(
    task_id: Annotated[str, typer.Argument(help="A training's id.")], *, json: Json = False
) -> None:
    """Follow a training until it ends, whoever submitted it.

    Ctrl-C stops following, not the training. The exit code is 1 where the training ends in an
    error.

    Example: `mlbridge follow 5f0c2d7e9b3a4c61a0d1e2f3a4b5c6d7`
    """
    result = run_followed(_follow(check_task_id(task_id)))
    print_json(result) if json else show_trained(result)


async def _follow(task_id: str) -> dict[str, Any]:
    async with BridgeClient() as client:
        return await follow_or_leave(client, client.handle(task_id))


def run_followed(following: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Run `follow_or_leave`; Ctrl-C meanwhile ends the command, with a word on what goes on."""
    try:
        return asyncio.run(following)
    except Interrupted as interrupted:
        task_id = interrupted.task_id
        say(
            f"The training goes on. Follow it again: mlbridge follow {task_id}\n"
            f"End it: mlbridge cancel {task_id}",
            errors,
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None


async def follow_or_leave(
    client: BridgeClient, handle: TaskHandle, title: str = ""
) -> dict[str, Any]:
    """As `follow_training`, with `task_id` in the result.

    Raises:
        Interrupted: this coroutine was cancelled, as Ctrl-C does.
    """
    try:
        result: Any = await follow_training(client, handle, title)
    except asyncio.CancelledError:
        raise Interrupted(handle.task_id) from None
    if not isinstance(result, dict):  # of a task of the user's own
        result = {"result": result}
    return {"task_id": handle.task_id, **result}


async def follow_training(
    client: BridgeClient, handle: TaskHandle, title: str = ""
) -> dict[str, Any]:
    """Show a training on standard error until it ends, and return its result.

    Args:
        client: to ask for the training's record.
        handle: of the training.
        title: what is trained, for people.

    Raises:
        BridgeError: the training ended in it.
    """
    view = TrainingView(handle.task_id, title)
    waiting = asyncio.create_task(handle.result())
    try:
        with _shown(view) as show:
            while not (await asyncio.wait([waiting], timeout=_LOOK_EVERY_S))[0]:
                await _look(client, handle, view)
                show()
            await _look(client, handle, view)
            error = waiting.exception()
            view.state = "succeeded" if error is None else outcome_of(error).value
            view.trouble = ""
            show()
    finally:
        waiting.cancel()
    result: dict[str, Any] = await waiting
    return result


async def _look(client: BridgeClient, handle: TaskHandle, view: TrainingView) -> None:
    """Ask for news. Where there are none to be had, the last ones stay: it may pass."""
    try:
        async with asyncio.timeout(_READ_S):
            view.heard(await client.job(handle.task_id), await handle.progress())
    except TimeoutError:
        view.trouble = "Redis does not answer; trying again"
    except QueueError as error:
        view.trouble = f"{error}; trying again"


@contextmanager
def _shown(view: TrainingView) -> Iterator[Callable[[], None]]:
    """What is to be called when the view has changed."""
    if not errors.is_terminal:
        yield _liner(view)
        return
    with Live(view, console=errors, refresh_per_second=8, vertical_overflow="crop") as live:
        yield live.refresh


def _liner(view: TrainingView) -> Callable[[], None]:
    """Prints a line when the state changes, and otherwise one now and then if anything did."""
    said: tuple[str, str] = ("", "")
    at = 0.0

    def show() -> None:
        nonlocal said, at
        line, now = view.line(), time.monotonic()
        state = f"{view.state} {view.trouble}"
        if state != said[0] or (line != said[1] and now - at >= _LINE_EVERY_S):
            said, at = (state, line), now
            say(line, errors)

    say(f"following {view.task_id}", errors)
    return show


def show_trained(result: dict[str, Any]) -> None:
    """Print what a training ended with."""
    if "model_version" not in result:  # a task of another kind has ended
        print_json(result)
        return
    rows = [
        ("model", f"{result['model_name']} version {result['model_version']}, live"),
        *(("metric " + name, short(value)) for name, value in result["metrics"].items()),
        *(("parity " + name, short(value)) for name, value in result["parity"].items()),
        *(
            ("variant " + name, short(value))
            for name, value in result.get("variant", {}).items()
            if name != "metrics"
        ),
        ("seconds", short(result["duration_s"])),
    ]
    print_table("trained", ("what", "value"), rows)
    say(f"How to call it:  mlbridge card {result['model_name']}")
