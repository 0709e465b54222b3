"""The promises about a task's end, on real servers: retries, deadlines, cancelling, crashes."""

import asyncio
import os
import signal
import time
from contextlib import contextmanager

import aio_pika
import numpy as np
import psutil
import pytest
from redis.asyncio import Redis
from taskiq.kicker import AsyncKicker

from bridge import errors
from bridge.client import BridgeClient
from bridge.embedded.triton import TritonServer
from bridge.messages import decode_result
from bridge.queues import build_broker, queue_depths
from bridge.settings import Settings
from bridge.triton_client import TritonClient

COMMAND = [
    *("-P", "-m", "taskiq", "worker", "bridge.broker:broker", "bridge.tasks.inference"),
    *("--workers", "1"),
]
TRAINING = [
    *("-P", "-m", "taskiq", "worker", "bridge.broker:training_broker", "bridge.tasks.training"),
    *("--workers", "1"),
]
X = np.ones((1, 4), np.float32)
Y = [[2, 2, 2, 2]]


@pytest.fixture(scope="module")
async def triton_here(state, model_repository):
    """A Triton that may be ill-treated."""
    async with TritonServer(state, model_repository, models=["double", "add_int"]) as server:
        yield server


@pytest.fixture
def there(environment, triton_here, request):
    """A queue of the test's own."""
    name = request.node.name[:80].replace("[", "_").replace("]", "")
    own = dict.fromkeys(("TASKIQ_ML_QUEUE", "TASKIQ_ML_ROUTING_KEY"), name)
    return environment | own | {"TRITON_URL": triton_here.address, "BRIDGE_RETRY_FIRST_S": "0.5"}


@pytest.fixture
async def here(there, monkeypatch):
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.fixture
async def caller(here):
    async with BridgeClient(here) as client:
        yield client


@contextmanager
def stopped(server):
    """Triton does not answer, and does not refuse either: a model that is slow."""
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


async def in_hand(here, worker_took):
    """Wait until a worker has taken so many messages from the queue."""
    async with asyncio.timeout(20):
        while (await queue_depths(here))[0].messages != worker_took:
            await asyncio.sleep(0.05)


async def record(here, task_id):
    async with Redis.from_url(here.redis_url.get_secret_value()) as redis:
        value = await redis.get(task_id)
        return None if value is None else decode_result(value)


async def test_a_model_that_is_away_is_waited_for_and_no_other_waits_with_it(
    there, caller, here, new_worker, triton_here
):
    await new_worker(COMMAND, there)
    await caller.infer("add_int", ADD)  # its specification is known by now
    async with TritonClient([triton_here.address], triton_here.admin_key) as triton:
        await triton.unload("add_int")
        handles = [await caller.submit("add_int", ADD) for _ in range(20)]
        for _ in range(5):
            assert (await caller.infer("double", {"x": X})).outputs["y"].tolist() == Y
        assert [await record(here, handle.task_id) for handle in handles] == [None] * 20
        await triton.load("add_int")
    for handle in handles:
        assert (await handle.result(60)).outputs["sum"].tolist() == [[2, 4]]


ADD = {"a": np.array([[1, 2]], np.int32), "b": np.array([[1, 2]], np.int32)}


@pytest.mark.timeout(400)
async def test_a_model_whose_process_died_is_reloaded_and_nobody_loses_an_answer(
    there, caller, new_worker, triton_here
):
    await new_worker(COMMAND, there)
    await new_worker(TRAINING, there | {"TRITON_ADMIN_KEY": triton_here.admin_key})
    await caller.infer("double", {"x": X})
    for process in psutil.Process(triton_here.process.pid).children(recursive=True):
        if process.status() != "zombie" and "double" in " ".join(process.cmdline()):
            process.kill()
    handles = [await caller.submit("double", {"x": X}) for _ in range(20)]
    for handle in handles:  # suspects of the crash, they are tried one after the other
        assert (await handle.result(240)).outputs["y"].tolist() == Y


async def test_who_wants_no_retry_hears_of_the_first_error(
    there, here, new_worker, triton_here, caller
):
    await new_worker(COMMAND, there)
    await caller.infer("double", {"x": X})
    broker = build_broker(here, "inference")
    await broker.startup()
    async with TritonClient([triton_here.address], triton_here.admin_key) as triton:
        await triton.unload("double")
        try:
            for labels in ({"max_retries": 0}, {"retry_on_error": False}):
                kicker = AsyncKicker("ml_inference", broker, labels)
                task = await kicker.kiq("double", {"x": X.tolist()})
                result = await task.wait_result(check_interval=0.02, timeout=20)
                assert isinstance(result.error, errors.ModelUnavailableError)
        finally:
            await triton.load("double")
            await broker.shutdown()


async def test_a_task_whose_time_is_over_is_not_run(there, caller, here, new_worker):
    expired = await caller.submit("double", {"x": X}, timeout_s=0.05)
    waiting = await caller.submit("double", {"x": X}, timeout_s=60)
    await asyncio.sleep(0.1)
    await new_worker(COMMAND, there)
    with pytest.raises(errors.TaskExpiredError):
        await expired.result(20)
    assert (await waiting.result(20)).outputs["y"].tolist() == Y
    kept = await record(here, expired.task_id)
    assert kept.error.outcome is errors.Outcome.EXPIRED


async def test_a_deadline_counts_inside_triton_too(there, caller, here, new_worker, triton_here):
    await new_worker(COMMAND, there)
    await caller.infer("double", {"x": X})
    with stopped(triton_here):
        handle = await caller.submit("double", {"x": X}, timeout_s=0.3)
        with pytest.raises(errors.TaskExpiredError):
            await handle.result(20)
    assert (await caller.infer("double", {"x": X})).outputs["y"].tolist() == Y


async def test_time_is_counted_from_when_it_was_sent(there, here, new_worker):
    message = {"task_id": "sent-long-ago", "task_name": "ml_inference", "labels": {}}
    message |= {"args": ["double", {"x": X.tolist()}], "kwargs": {}}
    broker = build_broker(here, "inference")
    await broker.startup()
    body = broker.formatter.dumps(broker.formatter.loads(str(message).replace("'", '"').encode()))
    connection = await aio_pika.connect(here.rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(
            aio_pika.Message(body.message, timestamp=time.time() - 100), here.taskiq_ml_queue
        )
        await broker.shutdown()
        await new_worker(COMMAND, there | {"BRIDGE_DEADLINE_S": "50"})
        async with asyncio.timeout(20):
            while (kept := await record(here, "sent-long-ago")) is None:
                await asyncio.sleep(0.05)
    assert isinstance(kept.error, errors.TaskExpiredError)


async def test_a_queued_task_is_cancelled(there, caller, here, new_worker):
    cancelled = await caller.submit("double", {"x": X})
    other = await caller.submit("double", {"x": X})
    assert await cancelled.cancel()
    with pytest.raises(errors.TaskCancelledError):
        await cancelled.result(20)
    assert not await cancelled.cancel()
    await new_worker(COMMAND, there)
    assert (await other.result(20)).outputs["y"].tolist() == Y
    assert not await other.cancel()
    assert (await other.result(1)).outputs["y"].tolist() == Y
    assert (await record(here, cancelled.task_id)).error.outcome is errors.Outcome.CANCELLED


async def test_a_task_inside_triton_is_cancelled_and_its_neighbours_are_not(
    there, caller, here, new_worker, triton_here
):
    await new_worker(COMMAND, there)
    await caller.infer("double", {"x": X})
    with stopped(triton_here):
        handles = [await caller.submit("double", {"x": X}) for _ in range(10)]
        await in_hand(here, 0)
        assert await handles[3].cancel()
        with pytest.raises(errors.TaskCancelledError):
            await handles[3].result(10)
    del handles[3]
    for handle in handles:
        assert (await handle.result(20)).outputs["y"].tolist() == Y
    await in_hand(here, 0)


async def test_the_first_record_stays(there, caller, here, new_worker):
    """As when a task was delivered twice, or was cancelled in the moment it ended."""
    handle = await caller.submit("double", {"x": X})
    other = await caller.submit("double", {"x": X})
    async with Redis.from_url(here.redis_url.get_secret_value()) as redis:
        await redis.script_flush()
        await redis.set(handle.task_id, b'{"is_err": false, "return_value": "the first"}')
        await new_worker(COMMAND, there)
        await other.result(20)
        await in_hand(here, 0)
        assert b"the first" in await redis.get(handle.task_id)


async def test_a_message_that_nobody_survives_is_dead_lettered(there, caller, here, new_worker):
    handle = await caller.submit("double", {"x": X})
    connection = await aio_pika.connect(here.rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue(here.taskiq_ml_queue)
        for _ in range(4):
            message = await queue.get(timeout=10)
            await message.reject(requeue=True)
        await new_worker(COMMAND, there | {"BRIDGE_DELIVERY_LIMIT": "3"})
        with pytest.raises(errors.PoisonousMessageError, match="delivered 5 times"):
            await handle.result(20)
        letters = await channel.get_queue(f"{here.taskiq_ml_queue}.dead_letter")
        letter = await letters.get(timeout=10)
        assert letter.headers["x-bridge-error"] == "PoisonousMessageError"
        assert letter.headers["x-bridge-attempts"] == 5
        await letter.ack()


@pytest.mark.parametrize(("drain_s", "code"), [(0.5, 75), (20, 0)])
async def test_a_stop_drains_and_its_exit_code_tells_what_went_back(
    there, caller, here, new_worker, triton_here, drain_s, code
):
    command = ["-P", "-m", "bridge", "worker", "inference", "--workers", "1"]
    worker = await new_worker([*command, "--drain-timeout", str(drain_s)], there)
    await caller.infer("double", {"x": X})
    with stopped(triton_here):
        handles = [await caller.submit("double", {"x": X}) for _ in range(3)]
        await in_hand(here, 0)
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(2.5)
    assert await stopping == code
    assert (await queue_depths(here))[0].messages == (3 if code else 0)
    assert ("3 tasks did not end" in worker.log.read_text()) == bool(code)
    await new_worker(COMMAND, there)
    for handle in handles:
        assert (await handle.result(20)).outputs["y"].tolist() == Y
