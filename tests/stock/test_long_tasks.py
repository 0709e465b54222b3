"""Tasks that last or hang, and a restart of RabbitMQ: stock taskiq and ours."""

import asyncio
import threading

import pytest
from taskiq import TaskiqMessage
from taskiq.exceptions import SendTaskError
from taskiq.kicker import AsyncKicker

from bridge.client import BridgeClient
from bridge.deliveries import Turn
from bridge.errors import TaskCancelledError

KINDS = ["stock", "ours"]


async def overlaps(rig, kind):
    """How many deliveries of one long task run at the same time, once RabbitMQ lost patience."""
    broker = rig.broker(kind, pool="training")
    running, release = 0, asyncio.Event()

    @broker.task("long")
    async def long() -> None:
        nonlocal running
        running += 1
        await release.wait()

    await rig.declared(rig.broker(kind), rig.broker(kind, pool="training"))
    producer = rig.broker(kind, pool="training")
    await producer.startup()
    async with rig.serving(broker):
        await AsyncKicker("long", producer, {}).kiq()
        try:
            async with asyncio.timeout(30):
                while running < 3:
                    await asyncio.sleep(0.05)
        finally:
            release.set()
            await producer.shutdown()
    return running


async def test_a_task_longer_than_rabbitmq_waits(new_rig, impatient_rabbitmq):
    """6: stock's task is delivered again while it runs, again and again, all at the same time.

    Here `consumer_timeout` is a second instead of 30 minutes. Ours trains in slices, each shorter
    than that, and is never delivered twice: tests/training/test_survival.py.
    """
    assert await overlaps(new_rig(impatient_rabbitmq), "stock") == 3


async def test_a_restart_of_rabbitmq_while_a_task_is_sent(new_rig, impatient_rabbitmq):
    """9: stock's `kiq` fails; ours returns when RabbitMQ is back and has the task."""
    rig = new_rig(impatient_rabbitmq)
    stock, ours = rig.broker("stock"), rig.broker("ours")
    await stock.startup()
    await ours.startup()
    await impatient_rabbitmq.stop()
    sending = asyncio.create_task(AsyncKicker("t", ours, {}).with_task_id("ours").kiq())
    with pytest.raises(SendTaskError):
        await AsyncKicker("t", stock, {}).with_task_id("stock").kiq()
    assert not sending.done()
    await impatient_rabbitmq.start()
    await sending
    assert await rig.arrivals(rig.own.taskiq_ml_queue, count=1) == [
        ("ours", rig.own.taskiq_ml_queue)
    ]
    await stock.shutdown()
    await ours.shutdown()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_time_limit(kind, rig):
    """11: stock tells of a timeout, and the thread of the task runs on.

    Ours: what an inference waits for is given up, in Triton too (tests/tasks/test_promises.py); a
    training is a process, which is ended.
    """
    broker = rig.broker(kind)
    release, ended, given_up = threading.Event(), threading.Event(), asyncio.Event()

    @broker.task("hang")
    def hang() -> None:
        release.wait(30)
        ended.set()

    async def shortcut(_message: TaskiqMessage, _turn: Turn) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.set()
            raise

    if kind == "ours":
        broker.intake.shortcuts["hang"] = shortcut
    await rig.declared(rig.broker(kind))
    async with rig.serving(broker):
        await rig.publish(rig.task(f"{kind}-hang", "hang", [], timeout=0.2))
        await rig.taken()
        if kind == "stock":
            error = (await broker.result_backend.get_result("stock-hang")).error
            assert isinstance(error, TimeoutError)
            assert not ended.is_set()  # it is there, and holds its thread
            release.set()
            assert await asyncio.to_thread(ended.wait, 20)
        else:
            async with BridgeClient(rig.own) as client:
                assert await client.handle("ours-hang").cancel()
            assert isinstance((await rig.record("ours-hang")).error, TaskCancelledError)
            await asyncio.wait_for(given_up.wait(), 20)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stop_while_a_task_hangs(kind, rig):
    """11: stock's worker waits for ever; ours for as long as it may, and the task goes back."""
    broker = rig.broker(kind)
    started, release = asyncio.Event(), asyncio.Event()

    @broker.task("hang")
    async def hang() -> None:
        started.set()
        await release.wait()

    async def shortcut(_message: TaskiqMessage, _turn: Turn) -> None:
        await hang.original_func()

    if kind == "ours":
        broker.intake.shortcuts["hang"] = shortcut
    await rig.declared(rig.broker(kind))
    async with rig.serving(broker, wait_tasks_timeout=None) as worker:
        await rig.publish(rig.task(f"{kind}-stop", "hang", []))
        await asyncio.wait_for(started.wait(), 20)
        worker.set()
        if kind == "stock":
            await asyncio.sleep(3 * rig.own.bridge_drain_timeout_s)
            assert not worker.task.done()
            release.set()
        else:
            await asyncio.wait_for(worker.task, 20)
    assert await rig.counts() == ((0, 0) if kind == "stock" else (1, 0))
