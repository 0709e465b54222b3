"""The docs' pictures: drawn of a running stack by the command that draws them.

They stay in build/monitoring: look at them, and copy them to docs/monitoring where they changed.
"""

from pathlib import Path

import pytest
from bridgeboards.pictures import shown

ROOT = Path(__file__).parent.parent.parent
DRAWN = {"overview", "model", "training", "queue", "triton"}


def test_the_docs_have_a_picture_of_each_dashboard():
    there = {file.stem for file in (ROOT / "docs" / "monitoring").glob("*.png")}
    assert there == DRAWN


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0021, "s", "2.1 ms"),
        (0, "s", "0 s"),
        (90, "s", "1.5 min"),
        (7200, "s", "2 h"),
        (0.5, "percentunit", "50 %"),
        (2_500_000, "bytes", "2.5 MB"),
        (0, "Bps", "0 B/s"),
        (12.34, "ops", "12.3/s"),
        (12345, "short", "12,345"),
    ],
)
def test_numbers_have_short_units(value, unit, text):
    assert shown(value, unit) == text
