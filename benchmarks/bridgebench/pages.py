"""Reports as Markdown. Enters: what a run found. Leaves: text.

Aims first, then ratios, then each scenario's tables; the machine at the end.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bridgebench.findings import Finding, Report, Table

BEGIN = "<!-- begin: written by `make bench` -->"
END = "<!-- end: written by `make bench` -->"
TRAINING = (
    "<!-- begin: written by `make bench-train` -->",
    "<!-- end: written by `make bench-train` -->",
)
GPU = (
    "<!-- begin: written by `make gpu-check` -->",
    "<!-- end: written by `make gpu-check` -->",
)
_PLOT = re.compile(r"^!\[[^\]\n]*\]\(", re.MULTILINE)


def render(
    reports: Sequence[Report],
    run: Mapping[str, Any],
    *,
    before: Mapping[str, str] | None = None,
) -> str:
    """The whole page, which lies in the folder of its plots.

    Args:
        reports: in order.
        run: `started`, `repetitions`, `quick`, `machine`, `versions`, `took_s`.
        before: what the run before found, by finding's title.
    """
    lines = [_introduction(run), ""]
    findings = [finding for report in reports for finding in report.findings]
    aimed = [finding for finding in findings if finding.aim]
    if aimed:
        lines += ["## Aims", "", *_findings(aimed, before or {}), ""]
    others = [finding for finding in findings if not finding.aim]
    if others:
        lines += ["## Other ratios", "", *_findings(others, before or {}), ""]
    for report in reports:
        lines += [f"## {report.title}", ""]
        lines += [line for name in report.plots for line in (f"![{report.title}]({name})", "")]
        lines += [line for table in report.tables for line in (*_table(table), "")]
        lines += [line for note in report.notes for line in (f"- {note}",)]
        lines += [""] if report.notes else []
    lines += ["## Machine and versions", "", *_machine(run), ""]
    return "\n".join(lines)


def from_elsewhere(text: str, folder: str) -> str:
    """A report whose plots are found from a page beside which they do not lie.

    Args:
        text: what `render` gave.
        folder: where they are, from the page.
    """
    return _PLOT.sub(rf"\g<0>{folder}/", text)


def inserted(page: str, text: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """`page` with `text` between the marks.

    Raises:
        ValueError: the marks are not there.
    """
    head, begin, rest = page.partition(marks[0])
    _, end, tail = rest.partition(marks[1])
    if not begin or not end:
        raise ValueError(f"the page has no {marks[0]} and {marks[1]}")
    return f"{head}{begin}\n{text}\n{end}{tail}"


def _introduction(run: Mapping[str, Any]) -> str:
    machine = run["machine"]
    text = (
        f"`{run['command']}`, in {run['took_s'] / 60:.0f} minutes, begun {run['started']}, on "
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gb']:g} GB; "
        f"at most {run['repetitions']} repetitions. Shown are medians, and in brackets the "
        "smallest and largest; ratios are taken repetition by repetition."
    )
    if run["quick"]:
        text += "\n\n**A quick run: it shows that everything works; its figures mean nothing.**"
    return text


def _findings(findings: Iterable[Finding], before: Mapping[str, str]) -> list[str]:
    columns = ["", "measured", "aim", "", *(["the run before"] if before else [])]
    rows = [
        [
            finding.title,
            finding.value.shown(finding.unit),
            finding.aim,
            finding.verdict,
            *([before.get(finding.title, "")] if before else []),
        ]
        for finding in findings
    ]
    if not any(row[2] for row in rows):
        columns, rows = (
            [columns[i] for i in (0, 1, *range(4, len(columns)))],
            [[row[i] for i in (0, 1, *range(4, len(row)))] for row in rows],
        )
    return _grid(columns, rows)


def _table(table: Table) -> list[str]:
    return [f"{table.title}:", "", *_grid(table.columns, table.rows)]


def _grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        _line(columns),
        _line(["---", *("---:" for _ in columns[1:])]),
        *(_line(row) for row in rows),
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _machine(run: Mapping[str, Any]) -> list[str]:
    machine = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    text = (
        f"{machine['cores']} cores, {machine['processor']}, {machine['memory_gb']:g} GB of memory; "
        f"load average before the run {machine['load_before']:g}, at its end "
        f"{machine['load_after']:g}. Servers, workers and callers share the machine."
    )
    return [text, "", f"{versions}."]
