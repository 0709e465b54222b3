"""`mlbridge up`: a whole stack in one terminal."""

import asyncio
import shlex
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bridge.cli.output import Json, console, errors, print_json, print_table, say
from bridge.embedded.stack import Part, QueueChoice, Stack
from bridge.settings import load_settings


def cancel_on_sigterm() -> None:
    """Let SIGTERM end the running coroutine as Ctrl-C does, so that what it started is drained."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def up(
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Inference worker processes. Default: ML_WORKER_COUNT."),
    ] = None,
    training_workers: Annotated[int, typer.Option(min=0, help="Training worker processes.")] = 1,
    queue: Annotated[
        QueueChoice,
        typer.Option(help="auto: RabbitMQ where it answers or is installed, else Redis Streams."),
    ] = QueueChoice.AUTO,
    *,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Also a Taskiq Dashboard, told of every task.")
    ] = False,
    json: Json = False,
) -> None:
    """Start whatever is missing of Triton, Redis, RabbitMQ and both worker pools.

    What already answers at RABBITMQ_HOST, REDIS_URL or TRITON_URL is used as it is. What is
    started listens on 127.0.0.1, and is gone when this command ends. Ctrl-C drains: workers
    finish what they have in hand. Each worker pool tells Prometheus how it is on a port of its own:
    the inference pool on BRIDGE_METRICS_PORT, where that is set.

    Example: `mlbridge up --workers 2`
    """
    try:
        asyncio.run(_up(workers, training_workers, queue, dashboard=dashboard, json=json))
    except (KeyboardInterrupt, asyncio.CancelledError):
        _said(json).print("stopped; nothing is left running")


def _said(json: bool) -> Console:  # noqa: FBT001 - what typer gives
    """Where to say what happens: not amid a JSON document."""
    return errors if json else console


async def _up(
    workers: int | None,
    training_workers: int,
    queue: QueueChoice,
    *,
    dashboard: bool,
    json: bool,
) -> None:
    cancel_on_sigterm()
    stack = Stack(
        load_settings(),
        queue=queue,
        workers=workers,
        training_workers=training_workers,
        dashboard=dashboard,
        on_change=partial(_show_change, _said(json)),
    )
    async with stack:
        environment = _write_environment(stack)
        if json:
            print_json({"parts": [_row(part) for part in stack.parts], "environment": environment})
            sys.stdout.flush()
        else:
            _show(stack, environment)
        await stack.watch(asyncio.Event())


def _row(part: Part) -> dict[str, Any]:
    return {
        "part": part.name,
        "address": part.address,
        "state": part.state,
        "pid": part.pid,
        "log": part.log,
        "metrics": part.metrics,
    }


def _show(stack: Stack, environment: Path) -> None:
    print_table(
        "what runs where",
        ("part", "address", "state", "pid"),
        [(part.name, part.address, part.state, part.pid) for part in stack.parts],
    )
    for part in stack.parts:
        if part.metrics is not None:
            say(f"Metrics of the {part.name}: {part.metrics}")
    say(f"Logs: {stack.folder}/*/*.log")
    say(f"For other terminals:  . {environment}")
    say("Ctrl-C drains and ends it.")


def _write_environment(stack: Stack) -> Path:
    """Write what another terminal needs to reach the stack; it vanishes with the stack.

    It holds passwords and Triton's admin key: only its owner may read it.
    """
    variables = dict(stack.client_environment)
    if (key := stack.settings.triton_admin_key) is not None:
        variables["TRITON_ADMIN_KEY"] = key.get_secret_value()
    path = stack.folder / "env"
    path.touch(mode=0o600)
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))
    path.write_text("".join(lines))
    return path


def _show_change(where: Console, part: Part) -> None:
    say(f"{part.name}: {part.state}", where)
