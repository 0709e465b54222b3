"""`benchmarks/train.py --quick`: training both ways, kills, going live, to a well-formed report.

No figure is judged: a quick run is too short, and tests share their machine.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from bridgebench.pages import TRAINING, inserted
from bridgebench.training.overhead import in_turns

ROOT = Path(__file__).parent.parent.parent
TRAIN = ROOT / "benchmarks" / "train.py"
pytestmark = pytest.mark.timeout(900)

STEPS = {"train_s", "export_s", "compare_s", "try_s", "publish_s"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", str(TRAIN), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    ran = run("--quick", "--json", "--out", str(out))
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    printed = json.loads(ran.stdout)
    assert printed == json.loads((out / "results.json").read_bytes())
    assert "## Machine and versions" in (out / "results.md").read_text()
    return printed


def test_each_scenario_reports(results):
    assert list(results["scenarios"]) == ["overhead", "recovery", "go-live"]
    assert {"torch", "lightning", "Triton", "RabbitMQ"} <= set(results["versions"])
    for report in results["scenarios"].values():
        assert report["findings"]
        for table in report["tables"]:
            assert table["rows"]
            assert {len(row) for row in table["rows"]} == {len(table["columns"])}


def test_both_ways_end_with_the_same_network(results):
    (one,) = results["scenarios"]["overhead"]["data"]["digits"]
    assert list(one) == ["hand", "hand_checkpoints", "ours", "ours_short"]
    assert len({way["accuracy"] for way in one.values()}) == 1
    for way in one.values():
        assert way["loss"] == pytest.approx(one["hand"]["loss"], abs=1e-4)
    assert one["ours"]["slices"] == 1
    assert one["ours_short"]["slices"] > 1


def test_both_kills_and_each_step_are_measured(results):
    took = results["scenarios"]["recovery"]["data"]["took_s"]
    assert {victim: len(each) for victim, each in took.items()} == {"process": 1, "worker": 1}
    (timings,) = results["scenarios"]["go-live"]["data"]["synthetic"]
    assert set(timings) == STEPS


def test_in_as_many_rounds_as_ways_each_follows_each_other_one_once():
    ways = ["hand", "hand_checkpoints", "ours", "ours_short"]
    rounds = [in_turns(ways, number) for number in range(len(ways))]
    assert all(sorted(each) == sorted(ways) for each in rounds)
    assert len({each[0] for each in rounds}) == len(ways)
    assert len({pair for each in rounds for pair in itertools.pairwise(each)}) == 12


def test_an_unknown_scenario_is_refused():
    ran = run("overheads")
    assert ran.returncode == 2
    assert "overheads" in ran.stderr


def test_the_page_has_its_marks():
    page = (ROOT / "docs" / "training-benchmarks.md").read_text()
    assert "figures" in inserted(page, "figures", TRAINING)
