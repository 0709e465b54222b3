"""The dashboards: as the code makes them, each query answered by a real Prometheus."""

import json
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from bridgeboards.boards import as_json
from bridgeboards.queries import panels_of, queries_of

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy" / "grafana"
FILES = sorted((FOLDER / "dashboards").glob("*.json"))
BOARDS = [json.loads(file.read_text()) for file in FILES]
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


def asked(board, title):
    """What a dashboard asks at that place, first of all."""
    return next(
        query.expr
        for board_ in BOARDS
        if board_["uid"] == board
        for query in queries_of(board_)
        if query.title == title
    )


@pytest.mark.parametrize(
    ("info", "minutes", "marked"),
    [
        ({"1": "1x10 stale", "2": "_x11 1x20"}, 11.5, {"2"}),
        ({"1": "1x10 stale", "2": "_x11 1x20"}, 13, set()),  # for a minute
        ({"1": "1x30"}, 20, set()),
        ({"7": "1x9 stale _x5 1x20"}, 16, set()),  # its pool began again
        ({"7": "1x9 stale _x5 1x20"}, 16.5, set()),
        ({"7": "_x9 1x20"}, 10, set()),  # the first of all
        ({"2": "1x10 stale", "1": "1x5 stale _x4 1x20"}, 11.5, {"1"}),  # the second was withdrawn
    ],
)
def test_a_mark_is_where_another_version_takes_over(find_program, tmp_path, info, minutes, marked):
    _test_query(
        find_program,
        tmp_path,
        asked("bridge-overview", "marks: New versions"),
        info,
        minutes,
        dict.fromkeys(marked, 1),
    )


def test_only_what_serves_now_is_said_to_be_served(find_program, tmp_path):
    info = {"1": "1x10 stale", "2": "_x11 1x20"}
    expr = asked("bridge-overview", "Models")
    _test_query(find_program, tmp_path, expr, info, 20, {"2": 9 * 60})


def _test_query(find_program, tmp_path, expr, info, minutes, expected):
    """Have promtool answer for versions of model `m`, with a value a minute."""
    series = [
        {"series": f'bridge_model_info{{model="m", version="{version}"}}', "values": values}
        for version, values in info.items()
    ]
    samples = [
        {"labels": f'{{model="m", version="{version}"}}', "value": value}
        for version, value in expected.items()
    ]
    question = {"expr": expr, "eval_time": f"{int(minutes * 60)}s", "exp_samples": samples}
    case = {"interval": "1m", "input_series": series, "promql_expr_test": [question]}
    file = tmp_path / "cases.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [case]}))
    done = subprocess.run(
        [find_program("promtool", "prometheus"), "test", "rules", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
