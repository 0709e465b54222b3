"""`mlbridge up`: a whole stack in one terminal."""

import asyncio
import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer

from bridge.cli.output import console, print_table
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
) -> None:
    """Start whatever is missing of Triton, Redis, RabbitMQ and both worker pools.

    What already answers at RABBITMQ_HOST, REDIS_URL or TRITON_URL is used as it is. What is
    started listens on 127.0.0.1, and is gone when this command ends. Ctrl-C drains: workers
    finish what they have in hand.

    Example: `mlbridge up --workers 2`
    """
    try:
        asyncio.run(_up(workers, training_workers, queue, dashboard=dashboard))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("stopped; nothing is left running")


async def _up(
    workers: int | None, training_workers: int, queue: QueueChoice, *, dashboard: bool
) -> None:
    cancel_on_sigterm()
    stack = Stack(
        load_settings(),
        queue=queue,
        workers=workers,
        training_workers=training_workers,
        dashboard=dashboard,
        on_change=_show_change,
    )
    async with stack:
        print_table(
            "what runs where",
            ("part", "address", "state", "pid"),
            [(part.name, part.address, part.state, part.pid) for part in stack.parts],
        )
        console.print(f"Logs: {stack.folder}/*/*.log", soft_wrap=True, highlight=False)
        console.print(f"For other terminals:  . {_write_environment(stack)}", soft_wrap=True)
        console.print("Ctrl-C drains and ends it.")
        await stack.watch(asyncio.Event())


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


def _show_change(part: Part) -> None:
    console.print(f"{part.name}: {part.state}", markup=False, highlight=False)
