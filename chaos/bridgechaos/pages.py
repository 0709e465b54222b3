"""A run's tables in docs/chaos.md, between its marks."""

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bridgechaos.report import counts, fault_rows
from bridgechaos.session import Outcome

BEGIN = "<!-- begin: written by `make chaos` -->"
END = "<!-- end: written by `make chaos` -->"


def publish(outcome: Outcome, page: Path) -> None:
    """Put what a run found into the docs."""
    page.write_text(inserted(page.read_text(), render(outcome)))


def render(outcome: Outcome) -> str:
    """The run as Markdown."""
    options = outcome.options
    begun = datetime.now(UTC).strftime("%Y-%m-%d")
    verdict = "The ledger balances." if outcome.good else "**The ledger does not balance.**"
    heading = (
        f"{begun}: {len(outcome.hits)} faults over {options.tasks:,} tasks, seed {options.seed}, "
        f"on {_machine()}; servers, workers and producers share the machine. {verdict}"
    )
    lines = [
        heading,
        "",
        *_grid(["fault", "count", "recovery, median s", "max s"], fault_rows(outcome)),
        "",
        *_grid(["", ""], [[name, f"{value:,}"] for name, value in counts(outcome).items()]),
    ]
    if outcome.troubles:
        lines += ["", *(f"- {trouble}" for trouble in outcome.troubles)]
    return "\n".join(lines)


def inserted(page: str, text: str) -> str:
    """`page` with `text` between its marks.

    Raises:
        ValueError: the marks are not there.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{text}\n{END}{tail}"


def _grid(columns: list[str], rows: list[list[str]]) -> list[str]:
    bar = ["---", *("---:" for _ in columns[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (columns, bar, *rows)]


def _machine() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = found[1].strip() if found else platform.machine()
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({processor}), {psutil.virtual_memory().total / 1e9:.0f} GB"
