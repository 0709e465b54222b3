"""`mlbridge status` on real servers with RabbitMQ's management API and a worker with metrics."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys

import aio_pika
import httpx
import numpy as np
import pytest

from bridge.client import BridgeClient
from bridge.embedded.ports import free_ports
from bridge.embedded.workers import WorkerPool
from bridge.overview import Samples, look, take_samples

FEW = 8


@pytest.fixture(scope="module")
async def served(state, settings_of, managed, redis_server, triton, save_multiplier):
    """Settings of a stack with one inference worker; a model of its own is loaded."""
    names = {"TASKIQ_ML_QUEUE": "status", "TASKIQ_ML_ROUTING_KEY": "status"}
    names |= {"TASKIQ_ML_TRAINING_QUEUE": "status-training", "TASKIQ_ML_EXCHANGE": "status"}
    variables = {
        **managed,
        **names,
        "REDIS_URL": redis_server.url,
        "TRITON_URL": triton.address,
        "BRIDGE_METRICS_PORT": free_ports(1)[0],
        "BRIDGE_METRICS_HOST": "127.0.0.1",
    }
    variables = {name: str(value) for name, value in variables.items()}
    async with WorkerPool(state, "inference", 1, variables), httpx.AsyncClient() as http:
        async with asyncio.timeout(90):  # it listens, but may not have said yet that it does
            while (await http.get(f"{settings_of(variables).worker_urls[0]}/readyz")).is_error:
                await asyncio.sleep(0.1)
        yield settings_of(variables), variables


async def infer(settings, count=FEW):
    async with BridgeClient(settings) as client:
        row = {"x": np.ones((1, 4), np.float32)}
        await asyncio.gather(*(client.infer("double", row, timeout_s=60) for _ in range(count)))
    await asyncio.sleep(1)  # what was counted reaches the page four times a second


async def test_what_serves_and_how_fast(served):
    settings, _ = served
    await infer(settings)
    before = await take_samples(settings)
    await infer(settings)
    overview, now = await look(settings, before)
    states = {part.part: part.state for part in overview.parts}
    assert states.pop("training workers").startswith("no consumer on the queue")
    assert states.pop("worker pool") == "up"
    assert set(states.values()) == {"up"}
    assert set(states) == {"RabbitMQ", "Redis", "Triton", "inference workers"}
    assert [worker.state for worker in overview.workers] == ["ready"]
    [double] = [row for row in overview.models if row.model == "double"]
    assert double.version == "1"
    assert double.rows_per_s == pytest.approx(FEW / overview.window_s)
    assert double.failures_per_s == 0
    assert 1 <= double.batch_size <= FEW
    assert double.rows >= 2 * FEW
    [task] = [row for row in overview.tasks if row.task == "ml_inference"]
    assert task.seconds.recent
    assert 0 < task.seconds.p50_s <= task.seconds.p99_s
    # Nothing came since: the batch is unknown, and the quantiles are of all.
    overview, _ = await look(settings, now)
    [double] = [row for row in overview.models if row.model == "double"]
    assert (double.batch_size, double.rows_per_s) == (None, 0)
    [task] = [row for row in overview.tasks if row.task == "ml_inference"]
    assert not task.seconds.recent


async def test_a_model_s_quantiles_are_the_workers(served):
    settings, _ = served
    before = await take_samples(settings)
    await infer(settings)
    overview, _ = await look(settings, before)
    [double] = [row for row in overview.models if row.model == "double"]
    assert double.seconds.recent
    assert 0 < double.seconds.p50_s <= double.seconds.p99_s


async def test_rates_come_from_the_management(served):
    settings, _ = served
    async with asyncio.timeout(120):  # the API looks every five seconds
        while True:
            await infer(settings)
            overview, _ = await look(settings, await take_samples(settings))
            row = overview.queues[0]
            if row.in_per_s and row.out_per_s:
                break
    assert (row.queue, row.consumers, row.unacknowledged) == ("status", 1, row.unacknowledged)
    assert row.unacknowledged is not None
    assert overview.rates_missing is None
    without = settings.model_copy(
        update={"rabbitmq_management_url": f"http://127.0.0.1:{free_ports(1)[0]}"}
    )
    overview, _ = await look(without, await take_samples(without))
    assert overview.queues[0].waiting is not None
    assert overview.queues[0].in_per_s is None
    assert "no management API of RabbitMQ at http://127.0.0.1:" in overview.rates_missing
    assert overview.parts[0].state == "up"


async def test_dead_letters_and_a_person_s_page(served, command):
    settings, variables = served
    async with await aio_pika.connect(settings.rabbitmq_url) as connection:
        exchange = (await connection.channel()).default_exchange
        await exchange.publish(aio_pika.Message(b"no task"), settings.taskiq_ml_queue)
    async with asyncio.timeout(60):
        while True:
            overview, _ = await look(settings, await take_samples(settings))
            if overview.dead_letters:
                break
    assert overview.dead_letters == {"status": 1}
    result = await command("status", "--window", "0.1", **variables)
    assert result.exit_code == 1  # no training worker
    for told in (
        "1 dead letter of status",
        "double",
        "p99 ms",
        "ready",
        "no consumer on the queue",
    ):
        assert told in result.stdout


async def test_what_is_away_is_a_row_each(settings_of, command):
    amqp, redis, triton, worker = free_ports(4)
    variables = {
        "RABBITMQ_PORT": amqp,
        "RABBITMQ_PASSWORD": "hidden-rabbit",
        "REDIS_URL": f"redis://:hidden-redis@127.0.0.1:{redis}/0",
        "TRITON_URL": f"127.0.0.1:{triton},127.0.0.1:{worker}",
        "BRIDGE_WORKER_URLS": f"http://127.0.0.1:{worker}",
    }
    result = await command("status", "--json", "--window", "0.1", **variables)
    assert result.exit_code == 1, result.output
    assert "hidden-" not in result.output
    report = json.loads(result.stdout)
    rows = [part["part"] for part in report["parts"]]
    assert rows == [
        *("RabbitMQ", "Redis", "Triton", "Triton", "inference workers", "training workers"),
        "worker pool",
    ]
    assert not any(part["state"] == "up" for part in report["parts"])
    assert (report["models"], report["queues"], report["trainings"]) == ([], [], [])
    assert "check BRIDGE_WORKER_URLS" in report["parts"][-1]["state"]


async def test_servers_that_say_nothing_hold_nobody_up(settings_of, silent):
    settings = settings_of(
        RABBITMQ_HOST="127.0.0.1",
        RABBITMQ_PORT=silent,
        REDIS_URL=f"redis://127.0.0.1:{silent}/0",
        TRITON_URL=f"127.0.0.1:{silent}",
        BRIDGE_WORKER_URLS=f"http://127.0.0.1:{silent}",
    )
    overview, _ = await look(settings, Samples(0.0, {}, {}))
    assert overview.missing == overview.parts
    answered = [part for part in overview.parts if part.part in {"RabbitMQ", "Redis", "Triton"}]
    assert all("no answer within" in part.state for part in answered)


def read_until(descriptor, enough):
    """What a terminal shows, until `enough` says so; it fails by the test's own limit."""
    shown = b""
    while not enough(shown):
        shown += os.read(descriptor, 65536)
    return shown


def test_watch_shows_it_anew_until_it_is_stopped(served, tmp_path):
    _, variables = served
    leader, terminal = pty.openpty()
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bridge", "status", "--watch", "--every", "0.2"],
        env=kept | variables | {"TERM": "xterm", "COLUMNS": "160", "LINES": "60"},
        cwd=tmp_path,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    try:
        shown = read_until(leader, lambda text: text.count(b"worker pool") >= 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1  # no training worker
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert b"\x1b[?1049h" in shown  # a screen of its own, as pagers have
    assert b"Traceback" not in shown


def test_watch_for_machines_is_a_document_a_line(served, tmp_path):
    _, variables = served
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bridge", "status", "--watch", "--every", "0.2", "--json"],
        env=kept | variables,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            lines = [json.loads(process.stdout.readline()) for _ in range(2)]
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
        finally:
            process.kill()
    assert code == 1  # no training worker
    assert [line["parts"][0]["state"] for line in lines] == ["up", "up"]
    assert {row["model"] for row in lines[1]["models"]} >= {"double"}
