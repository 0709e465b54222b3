"""The docs' pictures: drawn of a running stack by the command that draws them.

They stay in build/monitoring: look at them, and copy them to docs/monitoring where they changed.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from bridgeboards.pictures import box_of, height_of, shown
from bridgeboards.queries import panels_of

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.timeout(900)  # the stack, with a training, on a busy machine
DRAWN = {"overview", "model", "training", "queue", "triton"}


def inside(picture, box):
    """The pixels of a panel's box: its left, bottom, width and height as shares."""
    left, bottom, width, height = box
    high, wide = picture.shape[:2]
    rows = slice(int((1 - bottom - height) * high) + 1, int((1 - bottom) * high))
    return picture[rows, int(left * wide) + 1 : int((left + width) * wide)]


async def test_pictures_are_drawn_of_a_running_stack(watched):
    folder = ROOT / "build" / "monitoring"
    minutes = (time.time() - watched.started) / 60
    drawing = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", ROOT / "deploy/grafana/render.py", watched.prometheus.url, folder),
        *("--model", "watched", "--minutes", str(minutes), "--rate-interval", "10s"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await drawing.communicate()
    assert drawing.returncode == 0, said.decode()
    for name in DRAWN:
        picture = matplotlib.image.imread(folder / f"{name}.png")
        board = json.loads((ROOT / "deploy/grafana/dashboards" / f"{name}.json").read_text())
        for panel in panels_of(board):
            if panel["type"] != "text":
                shown_there = inside(picture, box_of(panel["gridPos"], height_of(board)))
                colours = np.unique(shown_there.reshape(-1, shown_there.shape[-1]), axis=0)
                assert len(colours) > 20, panel["title"]


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
