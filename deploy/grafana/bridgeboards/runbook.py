"""The run book as a dashboard, so that it is at hand where the alert is looked at.

Enters: docs/runbook.md. Leaves: a panel for each of its sections, in the same order.
"""

import re
from pathlib import Path

from grafana_foundation_sdk.models.dashboard import Dashboard

from bridgeboards.board import board
from bridgeboards.panels import words

_PAGE = Path(__file__).resolve().parents[3] / "docs" / "runbook.md"
_LINES_A_UNIT = 1.35  # of the dashboard's grid, for text of this width
_LETTERS_A_LINE = 95


def runbook() -> Dashboard:
    """The dashboard `bridge-runbook`."""
    panels = [
        words(title, body, width=12, height=_height(body)) for title, body in sections().items()
    ]
    return board(
        "bridge-runbook",
        "Bridge · Run book",
        "What each alert means, what to look at, what to do.",
        {"What to do": panels},
    )


def sections(page: Path = _PAGE) -> dict[str, str]:
    """The sections of the run book, by title; links into the repository become plain text."""
    parts = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)[1:]
    bodies = (
        re.sub(r"\[([^]]+)]\((?!http|/d/)[^)]+\)", r"\1", body.strip()) for body in parts[1::2]
    )
    return dict(zip(parts[::2], bodies, strict=True))


def _height(body: str) -> int:
    wrapped = sum(1 + len(line) // _LETTERS_A_LINE for line in body.splitlines())
    return max(6, round(wrapped / _LINES_A_UNIT) + 2)
