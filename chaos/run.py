"""`python -P chaos/run.py`: break a private stack under load, and count what became of each task.

Servers are private and vanish at the end. The exit code is 1 if the ledger does not balance.
"""

import logging
import os
import secrets
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
from bridgechaos.session import Options, Outcome, run_once  # noqa: E402
from bridgechaos.stack import open_stack  # noqa: E402

_LOGS = _HERE.parent / "build" / "chaos"
_PAGE = _HERE.parent / "docs" / "chaos.md"


def main(  # noqa: PLR0913, PLR0917 - a command has an argument for each of its options
    seed: Annotated[
        int | None, typer.Option(help="Of faults and tasks. Default: a new one, printed.")
    ] = None,
    faults: Annotated[int, typer.Option(min=0, help="How many.")] = 12,
    tasks: Annotated[int, typer.Option(min=1, help="How many.")] = 3000,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Of load. Default: by 120 tasks a second.")
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
    *,
    training: Annotated[
        bool, typer.Option("--training", help="A training worker as well, to be broken.")
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
        tasks=tasks,
        per_s=tasks / (minutes * 60) if minutes else 120.0,
        longest_s=longest_s,
        settle_s=settle_s,
        only=tuple(only or ()),
    )
    for name in ("aio_pika", "aiormq", "bridge.client"):  # outages are what this is about
        logging.getLogger(name).setLevel(logging.CRITICAL)
    outcome = uvloop.run(_run(options, training=training))
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(report.plain(outcome), option=orjson.OPT_INDENT_2))
    else:
        report.show(outcome, Console())
    if publish:
        pages.publish(outcome, _PAGE)
    raise typer.Exit(0 if outcome.good else 1)


async def _run(options: Options, *, training: bool) -> Outcome:
    _say(f"seed {options.seed}; starting RabbitMQ, Redis, Triton and workers")
    async with open_stack(training=training) as (stack, settings):
        outcome = await run_once(stack, settings, options, _say)
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
