"""`mlbridge up --dashboard` starts a dashboard, and its workers tell it of tasks."""

import time

import httpx

WAIT_S = 90


def test_a_dashboard_comes_up_with_the_stack(make_up, save_multiplier, find_traces):
    save_multiplier(make_up.folder / "model_repository", "double", 2.0)
    arguments = ["--queue", "redis-streams", "--workers", "1", "--training-workers", "0"]
    make_up.up(*arguments, "--dashboard")
    url = make_up.environment["TASKIQ_DASHBOARD_URL"]
    token = make_up.environment["TASKIQ_DASHBOARD_TOKEN"]
    printed = make_up.log.read_text()
    assert url.removeprefix("http://") in printed
    assert token not in printed
    reply = make_up.run("infer", "double", stdin='{"x": [[1, 2, 3, 4]]}')
    assert reply.returncode == 0, reply.stderr
    deadline = time.monotonic() + WAIT_S
    with httpx.Client(base_url=url, timeout=WAIT_S) as http:
        while "ml_inference" not in (page := http.get("/", params={"status": 1}).text):
            assert time.monotonic() < deadline, page
            time.sleep(0.2)
    assert make_up.stop() == 0
    assert find_traces(make_up.state) == []
