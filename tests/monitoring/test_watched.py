"""What a running stack shows: every query, alert and picture, on a real Prometheus.

All that needs the stack is here: it ends with this file, and nothing else runs beside it.
"""

import asyncio
import json
import re
import sys
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import yaml
from bridgeboards.pictures import box_of, height_of
from bridgeboards.queries import panels_of, queries_of
from bridgeboards.triton import GPU

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
BOARDS = [json.loads(file.read_text()) for file in FILES]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
METRIC = re.compile(r"\b(?:bridge|nv|rabbitmq)_\w+|\bup\b")
pytestmark = pytest.mark.timeout(900)  # the stack, with a training, on a busy machine
VALUES = {"model": "watched", "__rate_interval": "10s"}
DRAWN = {"overview", "model", "training", "queue", "triton"}


def without_data(queries, watched, prometheus):
    """Those that have no number in all the time since the stack began."""
    span = {"start": watched.started, "end": time.time()}
    return [query for query in queries if not prometheus.series(query, VALUES, **span)]


def described(queries):
    return "\n".join(f"{q.dashboard} | {q.title} | {q.legend}: {q.expr}" for q in queries)


async def test_every_query_has_data_from_a_running_stack(watched, prometheus):
    queries = [q for board in BOARDS for q in queries_of(board) if not q.title.startswith(GPU)]
    assert len(queries) > 60
    # What RabbitMQ tells of its queues is seconds old, and a rate needs two scrapes.
    deadline = time.monotonic() + 300
    while missing := await asyncio.to_thread(without_data, queries, watched, prometheus):
        assert time.monotonic() < deadline, described(missing)
        await asyncio.sleep(1)


@pytest.mark.parametrize(
    "seen",
    [
        *(f'bridge_training_jobs{{state="{state}"}}' for state in ("running", "waiting", "paused")),
        'bridge_model_paused{model="watched"}',
        'bridge_retries_total{model="watched"}',
        'bridge_model_loads_total{model="watched-iris", outcome="loaded"}',
        *(f'bridge_tasks_total{{outcome="{o}"}}' for o in ("failed", "expired", "cancelled")),
        "bridge_redelivered_total",
    ],
)
async def test_what_was_done_to_the_stack_was_seen(prometheus, seen):
    deadline = time.monotonic() + 300
    while not await asyncio.to_thread(prometheus.now, f"max_over_time({seen}[1d]) > 0"):
        assert time.monotonic() < deadline
        await asyncio.sleep(1)


async def test_queries_about_gpus_are_understood(watched, prometheus):
    """Prometheus would refuse one that it does not understand."""
    queries = [q for board in BOARDS for q in queries_of(board) if q.title.startswith(GPU)]
    assert queries
    missing = await asyncio.to_thread(without_data, queries, watched, prometheus)
    if missing:
        pytest.skip(
            f"no GPU here, so that these panels were seen empty only:\n{described(missing)}"
        )


async def test_every_part_is_scraped(prometheus):
    targets = await asyncio.to_thread(prometheus.get, "targets")
    found = {target["labels"]["job"]: target for target in targets["activeTargets"]}
    assert {job: target["health"] for job, target in found.items()} == dict.fromkeys(found, "up"), [
        target["lastError"] for target in found.values()
    ]
    assert len(found) == 5


async def test_alerts_ask_for_metrics_that_are_there(prometheus):
    asked = {name for rule in RULES for name in METRIC.findall(rule["expr"])}
    asked = {name for name in asked if not name.startswith("nv_gpu_")}
    deadline = time.monotonic() + 300
    while missing := asked - set(await asyncio.to_thread(prometheus.get, "label/__name__/values")):
        assert time.monotonic() < deadline, missing
        await asyncio.sleep(1)


async def test_an_alert_fires_in_a_running_prometheus(watched, prometheus):
    """The dead letters that were sent: with its text filled in."""
    query = 'ALERTS{alertname="BridgeDeadLetters", alertstate="firing"}'
    deadline = time.monotonic() + 60
    while not await asyncio.to_thread(prometheus.now, query):
        assert time.monotonic() < deadline
        await asyncio.sleep(1)
    alerts = (await asyncio.to_thread(prometheus.get, "alerts"))["alerts"]
    summaries = [alert["annotations"]["summary"] for alert in alerts]
    assert f"3 dead letters in {watched.queue}.dead_letter" in summaries


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
