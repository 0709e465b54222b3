"""`python -P chaos/run.py`: break a private stack under load, and count what became of each task.

Servers are private and vanish at the end. The exit code is 1 if the ledger does not balance.
"""

import asyncio
import logging
import os
import secrets
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer
import uvloop
from rich.console import Console

_HERE = Path(__file__).resolve().parent
# This folder, and never the project's root with its folder `triton`.
sys.path.insert(0, str(_HERE))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from bridgechaos import pages, report  # noqa: E402 - found by the line above
from bridgechaos.kinds import NoSuchFaultError, check  # noqa: E402
from bridgechaos.outcome import Options, Outcome  # noqa: E402
from bridgechaos.session import run_once  # noqa: E402
from bridgechaos.stack import open_stack  # noqa: E402

from bridge.background import end  # noqa: E402

_LOGS = _HERE.parent / "build" / "chaos"
_PAGE = _HERE.parent / "docs" / "chaos.md"


def main(  # noqa: PLR0913, PLR0917 - a command has an argument for each of its options
    seed: Annotated[
        int | None, typer.Option(help="Of faults and tasks. Default: a new one, printed.")
    ] = None,
    faults: Annotated[int, typer.Option(min=0, help="How many.")] = 12,
    tasks: Annotated[int, typer.Option(min=1, help="How many.")] = 3000,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="Of load. Default: by 120 tasks a second, 25 with --training."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A kind of fault; repeat for more. Default: all.")
    ] = None,
    longest_s: Annotated[
        float, typer.Option(min=0.5, help="For how long a part stays broken at most.")
    ] = 3.0,
    settle_s: Annotated[
        float, typer.Option(min=1, help="How long the queues may take to drain at the end.")
    ] = 180.0,
    trainings: Annotated[
        int, typer.Option(min=0, help="With --training: how many, over the time of the load.")
    ] = 10,
    rounds: Annotated[
        int, typer.Option(min=1, help="With --one-at-a-time: how often each fault comes.")
    ] = 1,
    *,
    one_at_a_time: Annotated[
        bool,
        typer.Option(
            "--one-at-a-time",
            help="Each kind of fault on each part, the next when a probe through the part and a "
            "caller succeeded; one worker, and tasks for as long as that takes.",
        ),
    ] = False,
    training: Annotated[
        bool, typer.Option("--training", help="Two training workers as well, and trainings.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; progress goes to standard error.")
    ] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Write the tables to docs/chaos.md.")
    ] = False,
) -> None:
    """Break a private stack under load; nothing that was confirmed may be lost."""
    options = Options(
        seed=secrets.randbelow(2**31) if seed is None else seed,
        faults=faults,
        tasks=sys.maxsize if one_at_a_time else tasks,
        per_s=tasks / (minutes * 60) if minutes else 25.0 if training else 120.0,
        longest_s=longest_s,
        settle_s=settle_s,
        only=tuple(only or ()),
        rounds=rounds if one_at_a_time else 0,
        trainings=trainings if training else 0,
        command=shlex.join([f"{_HERE.name}/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    )
    outcome = _outcome(options, training=training)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(report.plain(outcome), option=orjson.OPT_INDENT_2))
    else:
        report.show(outcome, Console())
    if publish:
        pages.publish(outcome, _PAGE)
    raise typer.Exit(0 if outcome.good else 1)


def _outcome(options: Options, *, training: bool) -> Outcome:
    for name in ("aio_pika", "aiormq", "bridge.client"):  # outages are what this is about
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A shell that starts it in the background has it ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        check(options.only, training=training)
        return uvloop.run(_run(options, training=training))
    except KeyboardInterrupt:
        _say("interrupted; all parts are gone")
        raise typer.Exit(128 + signal.SIGINT) from None
    except NoSuchFaultError as error:
        _say(str(error))
        raise typer.Exit(2) from None


async def _run(options: Options, *, training: bool) -> Outcome:
    _say(f"seed {options.seed}; starting RabbitMQ, Redis, Triton and workers")
    # Alone, so that no other worker's answer hides that a broken one is still broken.
    workers = 1 if options.rounds else 2
    async with open_stack(training=training, workers=workers) as (stack, settings):
        running = asyncio.create_task(run_once(stack, settings, options, _say))
        try:
            outcome = await asyncio.shield(running)
        finally:
            await end(running)
        if not outcome.good:
            logs = _LOGS / f"seed-{options.seed}"
            stack.save_logs(logs)
            _say(f"logs of all parts: {logs}")
        return outcome


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
