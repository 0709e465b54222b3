"""`benchmarks/run.py --quick`: every scenario, on real servers, to a well-formed report.

No figure is judged: a quick run is too short, and tests share their machine.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUN = ROOT / "benchmarks" / "run.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", str(RUN), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    ran = run("--quick", "--out", str(out))
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    return out


def test_each_scenario_reports(out: Path):
    results = json.loads((out / "results.json").read_bytes())
    scenarios = results["scenarios"]
    assert results["quick"] is True
    assert list(scenarios) == [
        "drain",
        "stages",
        "idle",
        "batches",
        "images",
        "load",
        "memory",
        "growth",
    ]
    for report in scenarios.values():
        assert report["tables"]
        for table in report["tables"]:
            assert table["rows"]
            assert {len(row) for row in table["rows"]} == {len(table["columns"])}
        for name in report["plots"]:
            assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_every_aim_has_its_figure(out: Path):
    results = json.loads((out / "results.json").read_bytes())
    aimed = [
        finding
        for report in results["scenarios"].values()
        for finding in report["findings"]
        if finding["aim"]
    ]
    assert len(aimed) == 14
    assert all(finding["value"]["values"] for finding in aimed)


def test_all_competitors_answered_rightly_and_lost_nothing(out: Path):
    # `drain` ends with an error where an answer differs from onnxruntime's.
    drains = json.loads((out / "results.json").read_bytes())["scenarios"]["drain"]["data"]
    assert len(drains) == 8
    for competitor in drains.values():
        assert competitor["drains"][0]["per_s"] > 0


def test_machine_and_versions_are_described(out: Path):
    results = json.loads((out / "results.json").read_bytes())
    assert results["machine"]["cores"] >= 1
    assert results["machine"]["memory_gb"] > 0
    assert {"Python", "RabbitMQ", "Redis", "Triton", "celery", "dramatiq", "taskiq"} <= set(
        results["versions"]
    )
    page = (out / "results.md").read_text()
    assert page.index("## Aims") < page.index("## Machine and versions")


def test_variants_are_measured_where_they_are_asked_for(tmp_path: Path):
    ran = run("variants", "--quick", "--out", str(tmp_path))
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    (report,) = json.loads((tmp_path / "results.json").read_bytes())["scenarios"].values()
    assert len(report["tables"]) == len(report["findings"]) == 3
    assert {"celery", "ceiling_json", "ceiling_binary"} < set(report["data"])


def test_an_unknown_scenario_is_refused():
    ran = run("drains")
    assert ran.returncode == 2
    assert "drains" in ran.stderr
