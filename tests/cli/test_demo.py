"""`mlbridge demo`, the main job end to end, as anybody's first command."""

import json
import time


def test_the_demo(nothing_up, find_traces):
    output = nothing_up.folder / "demo.json"
    errors = nothing_up.folder / "demo.log"
    process = nothing_up.start("demo", "--json", log=output, errors=errors)
    states = set()
    while process.poll() is None:
        states |= set((nothing_up.folder / "tmp").glob("mlbridge-*"))
        time.sleep(0.1)
    assert process.returncode == 0, errors.read_text()
    report = json.loads(output.read_text())
    assert report["passed"] is True
    assert report["agreement"] == 1.0
    assert all(way["accuracy"] >= 0.97 for way in report["ways"].values())
    [instance] = report["served_on"]
    assert instance["device"].startswith(("cpu:", "cuda:"))
    assert report["total_s"] < 180
    assert report["peak_memory_mb"] > 100
    [state] = states
    assert find_traces(state) == []
