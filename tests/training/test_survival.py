"""A training whose process, worker and RabbitMQ are killed ends once, as if nothing had been."""

import asyncio
import contextlib
import os
import random
import signal
import time
import uuid

import aio_pika
import httpx
import pytest

from bridge.embedded.rabbitmq import RabbitMQServer
from bridge.errors import PoisonousMessageError
from bridge.training.child import BUSY
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn

# More by hand: BRIDGE_TEST_SEEDS=10 pytest tests/training/test_survival.py
SEEDS = range(1, 1 + int(os.environ.get("BRIDGE_TEST_SEEDS", "1")))
CNN = {"architecture": "cnn"}
PARAMETERS = {"epochs": 20, "batch_size": 8}
FAULTS = ("child", "worker", "rabbitmq", "stop")
SETTINGS = {"BRIDGE_TRAINING_SLICE_S": "2", "BRIDGE_CHECKPOINT_EVERY_S": "0.5"}
PATIENCE_MS = 25_000


class Watched(RabbitMQServer):
    """Takes a delivery away after 25 s, and counts redeliveries."""

    def _environment(self):
        variables = super()._environment()
        erlang = variables["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]
        erlang += " -rabbit channel_tick_interval 500"
        return {**variables, "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": erlang}

    async def redeliveries(self, queue):
        url = f"{self.management_url}/api/queues/%2F/{queue}"
        async with httpx.AsyncClient(auth=(self.username, self.password)) as http:
            stats = (await http.get(url)).raise_for_status().json().get("message_stats", {})
        return stats.get("redeliver", 0), stats.get("deliver", 0)


@pytest.fixture(scope="module")
async def own_rabbitmq(state):
    async with Watched(state, management=True, consumer_timeout_ms=PATIENCE_MS) as server:
        yield server


@pytest.fixture(scope="module")
async def undisturbed(tmp_path_factory, dataset_root, make_fake_triton):
    """The metrics of the same training in one piece."""
    from bridge.settings import Settings  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("undisturbed")
    settings = Settings(
        dataset_root=dataset_root,
        model_repository=folder / "models",
        checkpoint_root=folder / "checkpoints",
    )

    async def ignore(_record):
        pass

    training = Training(
        parse_request("few", CNN, PARAMETERS, settings),
        "t",
        settings,
        make_fake_triton(settings.model_repository),
    )
    return (await training.go_on(Turn(), ignore))["metrics"]


async def reached(handle, step, most_s=240):
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        report = await handle.progress() or {}
        if report.get("step", 0) >= step or report.get("stage"):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")


async def break_something(fault, pool, worker, rabbitmq):
    """Returns the worker that is there afterwards."""
    match fault:
        case "child":
            for process in pool.processes(worker):
                if process.name() == BUSY:
                    process.kill()
        case "worker":
            for process in reversed(pool.processes(worker)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            await worker.wait()
            return await pool.start(**SETTINGS)
        case "stop":
            worker.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(worker.wait(), 40) == 0
            return await pool.start(**SETTINGS)
        case "rabbitmq":
            await rabbitmq.kill()
            await rabbitmq.start()
    return worker


@pytest.mark.timeout(900)  # each fault loads torch anew
@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_is_killed_it_ends_once_and_as_if_nothing_had_been(
    seed, new_pool, own_rabbitmq, undisturbed
):
    rng = random.Random(seed)  # noqa: S311 - of faults
    pool = await new_pool(own_rabbitmq)
    worker = await pool.start(**SETTINGS)
    model = f"survivor-{uuid.uuid4().hex[:8]}"
    handle = await pool.client.train("few", {**CNN, "model_id": model}, PARAMETERS)
    faults = [*rng.sample(FAULTS, 3), rng.choice(FAULTS)]
    for step in sorted(rng.randint(1, 580) for _ in faults):
        await reached(handle, step)
        fault = faults.pop()
        worker = await break_something(fault, pool, worker, own_rabbitmq)
    result = await handle.result(240)
    assert result["metrics"] == undisturbed
    assert pool.versions(model) == [1]
    # What was delivered again or twice comes to nothing.
    await asyncio.sleep(1)
    assert pool.versions(model) == [1]
    assert await pool.client.job(handle.task_id) is None


async def test_a_training_longer_than_rabbitmq_waits_is_never_redelivered(new_pool, own_rabbitmq):
    """Stock's is, again and again, while it runs: tests/stock/test_long_tasks.py."""
    pool = await new_pool(own_rabbitmq)
    await pool.start(BRIDGE_TRAINING_SLICE_S="3")
    started = time.monotonic()
    model = f"patient-{uuid.uuid4().hex[:8]}"
    handle = await pool.client.train(
        "few", {**CNN, "model_id": model}, {"epochs": 100_000, "batch_size": 8}
    )
    while time.monotonic() - started < 1.3 * PATIENCE_MS / 1000:
        await asyncio.sleep(1)
    deadline = time.monotonic() + 180  # a busy machine takes long over a slice
    while (slices := (await pool.client.job(handle.task_id)).slices) < 2:
        assert time.monotonic() < deadline, slices
        await asyncio.sleep(1)
    queue = pool.environment["TASKIQ_ML_TRAINING_QUEUE"]
    await asyncio.sleep(5)  # management counts every five seconds
    redelivered, delivered = await own_rabbitmq.redeliveries(queue)
    assert redelivered == 0
    assert delivered >= 2
    await handle.cancel(now=True)


async def test_what_its_workers_never_survive_is_dead_lettered(pool, redis, rabbitmq):
    handle = await pool.client.train("few", CNN, {"epochs": 1})
    await redis.hset(f"bridge:job:{handle.task_id}", "unended", 2)  # so many were lost with it
    await pool.start(BRIDGE_DELIVERY_LIMIT="2")
    with pytest.raises(PoisonousMessageError, match="2 workers were lost with the training"):
        await handle.result(60)
    async with await aio_pika.connect(rabbitmq.url) as connection:
        channel = await connection.channel()
        name = pool.environment["TASKIQ_ML_TRAINING_QUEUE"]
        letters = await channel.get_queue(f"{name}.dead_letter")
        letter = await letters.get(timeout=10)
        assert letter.headers["x-bridge-error"] == "PoisonousMessageError"
        await letter.ack()
    async with asyncio.timeout(10):  # who replays the letter begins anew
        while await redis.exists(f"bridge:job:{handle.task_id}"):
            await asyncio.sleep(0.05)
