"""The dashboards: as the code makes them, each query answered by a real Prometheus."""

import asyncio
import json
import time
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from bridgeboards.boards import as_json
from bridgeboards.queries import panels_of, queries_of
from bridgeboards.triton import GPU

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy" / "grafana"
FILES = sorted((FOLDER / "dashboards").glob("*.json"))
BOARDS = [json.loads(file.read_text()) for file in FILES]
pytestmark = pytest.mark.timeout(900)  # the stack, with a training, on a busy machine
VALUES = {"model": "watched", "__rate_interval": "10s"}


def test_the_files_are_what_the_code_makes():
    """Else: python -P deploy/grafana/build.py."""
    assert {file.name: file.read_text() for file in FILES} == as_json()


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board["uid"])
def test_panels_say_what_they_show_and_lie_side_by_side(board):
    panels = board["panels"]
    for name in ("id", "title"):
        assert len({panel[name] for panel in panels}) == len(panels)
    for panel in panels_of(board):
        assert panel["title"]
        assert panel.get("description") or panel["type"] == "text"
        assert panel["type"] == "text" or panel["targets"]
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
        assert one["x"] + one["w"] <= 24


def test_links_lead_to_dashboards_that_are_there():
    known = {board["uid"] for board in BOARDS}
    for board in BOARDS:
        for part in json.dumps(board).split('"/d/')[1:] + json.dumps(board).split("(/d/")[1:]:
            assert part.split("/")[0] in known


def test_provisioning_names_what_is_there():
    source = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())
    assert [entry["type"] for entry in source["datasources"]] == ["prometheus"]
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    interval = source["datasources"][0]["jsonData"]["timeInterval"]
    assert interval == scraped["global"]["scrape_interval"]
    provider = yaml.safe_load((FOLDER / "provisioning/dashboards/bridge.yaml").read_text())
    assert [entry["type"] for entry in provider["providers"]] == ["file"]


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
    while not await asyncio.to_thread(prometheus.now, f"max_over_time({seen}[10m]) > 0"):
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
