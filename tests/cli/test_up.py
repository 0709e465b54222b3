"""`mlbridge up` comes up, heals, drains, and leaves nothing; also without RabbitMQ."""

import json
import os
import signal
from pathlib import Path

import httpx
import psutil


def server_of(stack, name):
    """The process of one part, by its room in the state folder."""
    children = psutil.Process(stack.process.pid).children()
    return next(child for child in children if stack.state / name in _here(child))


def _here(process):
    folder = Path(process.cwd())
    return [folder, *folder.parents]


def predict(stack):
    reply = stack.run("infer", "double", "--json", stdin='{"x": [[1, 2, 3, 4]]}')
    assert reply.returncode == 0, reply.stderr
    return json.loads(reply.stdout)["outputs"]["y"]


def test_redis_streams_and_the_whole_life(make_up, save_multiplier, find_traces):
    save_multiplier(make_up.folder / "model_repository", "double", 2.0)
    make_up.up("--queue", "redis-streams", "--workers", "1", "--training-workers", "0")
    assert make_up.environment["BRIDGE_QUEUE"] == "redis-streams"
    assert predict(make_up) == [[2, 4, 6, 8]]
    for room, name in (("inference-worker", "inference worker"), ("redis", "redis")):
        os.kill(server_of(make_up, room).pid, signal.SIGKILL)
        make_up.wait_for(f"{name}: running", count=2)
    assert predict(make_up) == [[2, 4, 6, 8]]
    assert make_up.stop() == 0
    assert "nothing is left running" in make_up.log.read_text()
    assert find_traces(make_up.state) == []


def test_machines_are_told_in_one_document_where_metrics_are(make_up, save_multiplier):
    save_multiplier(make_up.folder / "model_repository", "double", 2.0)
    errors = make_up.folder / "errors.log"
    flags = ("--json", "--queue", "redis-streams", "--workers", "1", "--training-workers", "1")
    make_up.process = make_up.start("up", *flags, log=make_up.log, errors=errors)
    make_up.wait_for("\n}\n")  # the document's end
    told = json.loads(make_up.log.read_text())
    metrics = {part["part"]: part["metrics"] for part in told["parts"] if part["metrics"]}
    assert metrics.keys() == {"inference worker", "training worker"}
    for url in metrics.values():
        assert url.startswith("http://127.0.0.1:")
        assert "\nbridge_build_info{" in httpx.get(url, timeout=30).text
    environment = Path(told["environment"]).read_text()
    assert all(url.removesuffix("/metrics") in environment for url in metrics.values())
    assert make_up.stop() == 0
    assert json.loads(make_up.log.read_text()) == told
    assert "nothing is left running" in errors.read_text()


def test_a_start_that_fails_is_told(nothing_up):
    (nothing_up.folder / "file").touch()
    result = nothing_up.run("up", MODEL_REPOSITORY="file")
    assert result.returncode == 1
    assert "MODEL_REPOSITORY" in result.stderr
    assert "Traceback" not in result.stderr
    assert list((nothing_up.folder / "tmp").iterdir()) == []


def test_a_password_that_is_wrong_is_told(stack, nothing_up):
    port = stack.environment["RABBITMQ_PORT"]
    result = nothing_up.run("up", "--workers", "1", RABBITMQ_PORT=port)
    assert result.returncode == 1
    told = " ".join(result.stderr.split())
    assert "does not start: QueueError: RabbitMQ at amqp://127.0.0.1:" in told
    assert "check RABBITMQ_USERNAME, RABBITMQ_PASSWORD" in told
    assert "Traceback" not in told
    assert list((nothing_up.folder / "tmp").iterdir()) == []
