"""What the commands of `mlbridge dlq` share: which letters, how far they are, one question."""

import asyncio
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bridge.cli.output import errors, say
from bridge.queues import Kind
from bridge.queues.letters import Selection

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|m|min|h|d|w)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


class QueueChoice(StrEnum):
    """Whose dead letters."""

    INFERENCE = "inference"
    TRAINING = "training"
    ALL = "all"

    @property
    def kinds(self) -> list[Kind]:
        """The queues that are meant."""
        if self is QueueChoice.INFERENCE:
            return ["inference"]
        return ["training"] if self is QueueChoice.TRAINING else ["inference", "training"]


def seconds(text: str) -> float:
    """A duration as people write it: 90s, 15m, 1.5h, 7d, 2w."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"expected a number and a unit (90s, 15m, 1h, 7d), got {text!r}")
    return float(found[1]) * _SECONDS[found[2]]


Queue = Annotated[QueueChoice, typer.Option(help="Whose dead letters.")]
Reason = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Only where the error's class or text has this in it."),
]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Only inferences of this model.")]
OlderThan = Annotated[
    float | None, typer.Option(metavar="DURATION", parser=seconds, help="As 90s, 15m, 1h or 7d.")
]
NewerThan = Annotated[
    float | None, typer.Option(metavar="DURATION", parser=seconds, help="As 90s, 15m, 1h or 7d.")
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID_OR_POSITION]...", help="Task ids, or positions in the list."),
]
All = Annotated[bool, typer.Option("--all", help="All that are there; instead of ids or filters.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first so many of those, at most.")]


def selection(
    names: Sequence[str] | None,
    reason: str | None,
    model: str | None,
    older_than_s: float | None,
    newer_than_s: float | None,
    *,
    everything: bool | None = None,
) -> Selection:
    """Which letters are meant.

    Args:
        names: task ids and positions.
        reason: part of the error's class or text.
        model: of an inference.
        older_than_s: least age.
        newer_than_s: most age.
        everything: `--all` was said; None: it need not be.

    Raises:
        BadParameter: `--all` is missing where nothing else is said, or is there with something.
    """
    wanted = Selection(frozenset(names or ()), reason, model, older_than_s, newer_than_s)
    if everything is False and wanted.everything:
        raise typer.BadParameter("say which: ids or positions, a filter, or --all")
    if everything and not wanted.everything:
        raise typer.BadParameter("--all is for all of them: leave out ids and filters, or --all")
    return wanted


def progress() -> Progress:
    """A bar on standard error, where that is a terminal."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )


async def confirmed(question: str) -> bool:
    """Ask a person; anything but yes is no.

    While a terminal waits, the loop runs on: connections stay alive.
    """
    say(f"{question} [y/N] ", errors, end="")
    if sys.stdin.isatty():
        answered = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin, answered.set)
        try:
            await answered.wait()
        finally:
            loop.remove_reader(sys.stdin)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
