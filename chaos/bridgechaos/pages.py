"""A run's tables in docs/chaos.md, between its marks."""

import os
import platform
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from bridgechaos.outcome import Outcome
from bridgechaos.report import counts, fault_columns, fault_rows

_WRITTEN = "written by `make chaos`"
TOGETHER = (f"<!-- begin: {_WRITTEN} -->", f"<!-- end: {_WRITTEN} -->")
ALONE = (f"<!-- begin: one at a time, {_WRITTEN} -->", f"<!-- end: one at a time, {_WRITTEN} -->")


def publish(outcome: Outcome, page: Path) -> None:
    """Put what a run found into the docs."""
    marks = ALONE if outcome.options.rounds else TOGETHER
    page.write_text(inserted(page.read_text(), render(outcome), marks))


def render(outcome: Outcome) -> str:
    """The run as Markdown."""
    lines = [
        _heading(outcome),
        "",
        *_grid(fault_columns(outcome), fault_rows(outcome)),
        "",
        *_grid(["", ""], [[name, f"{value:,}"] for name, value in counts(outcome).items()]),
    ]
    if outcome.troubles:
        lines += ["", *(f"- {trouble}" for trouble in outcome.troubles)]
    return "\n".join(lines)


def _heading(outcome: Outcome) -> str:
    """What was run, where, and what came of it."""
    options = outcome.options
    begun = datetime.now(UTC) - timedelta(seconds=outcome.took_s)
    command = f"`{options.command}`, " if options.command else ""
    if options.rounds:
        faults = f"{len(outcome.hits)} faults, one at a time, over {outcome.balance.submitted:,}"
        load = ""
    else:
        faults = f"{len(outcome.hits)} faults over {options.tasks:,}"
        load = f" in {options.load_s / 60:.3g} minutes"
    verdict = "The ledger balances." if outcome.good else "**The ledger does not balance.**"
    return (
        f"{command}begun {begun:%Y-%m-%d %H:%M} UTC: {faults} tasks{load}, seed {options.seed}, on "
        f"{_machine()}; servers, workers and producers share the machine. A part stayed broken for "
        f"up to {options.longest_s:g} s; at the end all had {options.settle_s:g} s to end in. "
        f"{verdict}"
    )


def inserted(page: str, text: str, marks: tuple[str, str]) -> str:
    """`page` with `text` between two marks.

    Raises:
        ValueError: the marks are not there.
    """
    head, begin, rest = page.partition(marks[0])
    _, end, tail = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"the page has no {marks[0]} and {marks[1]}")
    return f"{head}{begin}\n{text}\n{end}{tail}"


def _grid(columns: list[str], rows: list[list[str]]) -> list[str]:
    bar = ["---", *("---:" for _ in columns[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (columns, bar, *rows)]


def _machine() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = found[1].strip() if found else platform.machine()
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({processor}), {psutil.virtual_memory().total / 1e9:.0f} GB"
