"""Delays, retries, several queues, how much is taken at a time: stock taskiq and ours."""

import asyncio
import time

import aio_pika
import aiormq.exceptions
import pytest
from taskiq import SmartRetryMiddleware, TaskiqMessage
from taskiq.exceptions import SendTaskError
from taskiq.kicker import AsyncKicker
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.queue import Queue

from bridge.deliveries import Turn
from bridge.errors import InvalidLabelError, QueueError, TritonBusyError
from bridge.queues.rabbitmq import RabbitMQBroker
from bridge.retries import Retries
from bridge.settings import Settings

KINDS = ["stock", "ours"]


def failing_at_first(broker, times):
    """A task of a user's that succeeds when it has failed so often."""
    tries = []

    @broker.task("stubborn", retry_on_error=True)
    async def stubborn() -> int:
        tries.append(None)
        if len(tries) <= times:
            raise LookupError("not yet")
        return len(tries)

    return broker


@pytest.mark.parametrize("kind", KINDS)
async def test_smart_retries_without_a_delay_queue(kind, rig):
    """4: stock raises inside on_error, and the message stays unacknowledged; ours comes back."""
    await rig.declared(rig.broker(kind))
    smart = SmartRetryMiddleware(default_delay=1)
    async with rig.serving(failing_at_first(rig.broker(kind, smart), times=1)):
        await rig.publish(rig.task(f"{kind}-smart", "stubborn", [], retry_on_error=True))
        if kind == "stock":
            await rig.taken()
        else:
            result = await rig.record(f"{kind}-smart")
            assert (result.error, result.return_value) == (None, 2)
    assert await rig.has_record(f"{kind}-smart") == (kind == "ours")
    assert await rig.counts() == ((1, 0) if kind == "stock" else (0, 0))


def test_how_waits_between_retries_grow():
    """4: stock multiplies a wait that was multiplied before; ours doubles, whatever labels say."""
    smart = SmartRetryMiddleware(default_delay=1, use_delay_exponent=True, max_delay_exponent=1e9)
    message = TaskiqMessage(task_id="1", task_name="t", labels={}, args=[], kwargs={})
    stock = []
    for number in range(1, 6):
        message.labels["delay"] = smart.make_delay(message, number)  # as `with_labels` does
        stock.append(message.labels["delay"])
    assert stock == [1, 2, 6, 24, 120]
    retries = Retries(first_s=1.0, longest_s=60.0)
    ours = [
        retries.wait_s(TritonBusyError("busy"), number, 1e9, most=5, jitter=1.0)
        for number in range(1, 7)
    ]
    assert ours == [1, 2, 4, 8, 16, None]


async def most_at_a_time(rig, kind, count):
    """How many tasks a worker with its broker's own limits has running together."""
    broker = rig.broker(kind)
    now = most = 0
    release = asyncio.Event()

    @broker.task("wait")
    async def wait() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await release.wait()
        now -= 1

    async def shortcut(_message: TaskiqMessage, _turn: Turn) -> None:
        await wait.original_func()

    if kind == "ours":
        broker.intake.shortcuts["wait"] = shortcut
    await rig.declared(rig.broker(kind))
    await rig.publish(*(rig.task(f"{kind}-{number}", "wait", []) for number in range(count)))
    async with rig.serving(broker):
        try:
            async with asyncio.timeout(20):
                while most < (10 if kind == "stock" else count):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)  # more would be here by now
        finally:
            release.set()
    return most


@pytest.mark.parametrize(("kind", "most"), [("stock", 10), ("ours", 64)])
async def test_how_much_can_gather_for_a_batch(kind, most, rig):
    """5: stock's qos bounds what runs, and so every batch; ours takes what a batch can hold."""
    assert await most_at_a_time(rig, kind, 64) == most


@pytest.mark.parametrize("kind", KINDS)
async def test_a_training_waits_where_another_worker_can_take_it(kind, rig):
    """5: a worker of stock's hoards what it cannot run yet; ours takes one training."""
    started, release = [], asyncio.Event()

    def pool(worker):
        broker = rig.broker(kind, pool="training")

        @broker.task("train")
        async def train() -> None:
            started.append(worker)
            await release.wait()

        return broker

    await rig.declared(rig.broker(kind, pool="training"))
    producer = rig.broker(kind, pool="training")
    await producer.startup()
    async with rig.serving(pool("first"), max_async_tasks=1):
        for _ in range(2):
            await AsyncKicker("train", producer, {}).kiq()
        await rig.taken_from(rig.own.taskiq_ml_training_queue, left=0 if kind == "stock" else 1)
        try:
            async with rig.serving(pool("second"), max_async_tasks=1):
                await asyncio.sleep(1.0)
                async with asyncio.timeout(20):
                    while kind == "ours" and len(started) < 2:
                        await asyncio.sleep(0.05)
                assert started == ["first", "second"][: 1 if kind == "stock" else 2]
                release.set()
        finally:
            release.set()
    await producer.shutdown()


@pytest.mark.parametrize("kind", KINDS)
async def test_two_queues(kind, rig):
    """7: without a label stock's message is dropped, and a delayed one comes back to the first.

    Ours has a broker for each queue.
    """
    first, second = rig.own.taskiq_ml_queue, rig.own.taskiq_ml_training_queue
    if kind == "stock":
        delays = Queue(name=f"{first}.stock_delays")
        broker = rig.broker(kind, queues=(first, second), delay_queue=delays)
        labels = {"queue_name": second}
        await broker.startup()
        await AsyncKicker("t", broker, {}).with_task_id("unlabelled").kiq()
        await AsyncKicker("t", broker, labels).with_task_id("labelled").kiq()
        await AsyncKicker("t", broker, labels | {"delay": 1}).with_task_id("delayed").kiq()
        expected = [("labelled", second), ("delayed", first)]
    else:
        broker = rig.broker(kind, pool="training")
        await rig.declared(rig.broker(kind))
        await broker.startup()
        await AsyncKicker("t", broker, {}).with_task_id("unlabelled").kiq()
        await AsyncKicker("t", broker, {"delay": 1}).with_task_id("delayed").kiq()
        expected = [("unlabelled", second), ("delayed", second)]
    assert await rig.arrivals(first, second, count=2) == expected
    await broker.shutdown()


def test_a_second_queue_is_refused(rig):
    """7, ours."""
    for ask in ("with_queue", "with_queues"):
        with pytest.raises(QueueError, match="serves one queue"):
            getattr(rig.broker("ours"), ask)(Queue(name="more"))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_short_delay_behind_a_long_one(kind, rig):
    """8: in stock's one delay queue it waits for the long one; in ours it does not."""
    queue = rig.own.taskiq_ml_queue
    more = {"delay_queue": Queue(name=f"{queue}.stock_delays")} if kind == "stock" else {}
    broker = rig.broker(kind, **more)
    await broker.startup()
    for name, wait_s in {"long": 4, "short": 1}.items():
        await AsyncKicker(name, broker, {"delay": wait_s}).with_task_id(name).kiq()
    found = [task_id for task_id, _ in await rig.arrivals(queue, count=2)]
    assert found == (["long", "short"] if kind == "stock" else ["short", "long"])
    await broker.shutdown()


async def test_a_delay_between_two_tiers(rig):
    """8, ours: it waits in one tier after the other, and does not begin before its time."""
    producer = rig.broker("ours")
    await producer.startup()
    async with rig.serving(rig.add_shout("ours", rig.broker("ours"))):
        begin_at = time.time() + 3
        await AsyncKicker("shout", producer, {"delay": 3}).with_task_id("between").kiq("hello")
        assert (await rig.record("between")).return_value == "HELLO"
        assert time.time() > begin_at
    assert await rig.counts() == (0, 0)
    for nonsense in ("soon", -1, "nan"):
        with pytest.raises(SendTaskError) as raised:
            await AsyncKicker("shout", producer, {"delay": nonsense}).kiq("hello")
        assert isinstance(raised.value.__cause__, InvalidLabelError)
    await producer.shutdown()


async def exists(rig, queue):
    connection = await aio_pika.connect(rig.own.rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        try:
            await channel.get_queue(queue, ensure=True)
        except aiormq.exceptions.ChannelNotFoundEntity:
            return False
        return True


async def test_parameters_of_an_earlier_taskiq(rig):
    """12: stock takes `queue_name` for an option of the connection, and serves another queue.

    Ours takes none; `Settings` refuses what it does not know (tests/test_names_and_settings.py).
    """
    wanted = {"queue_name": f"{rig.own.taskiq_ml_queue}_wanted", "max_priority": 5}
    stock = AioPikaBroker(rig.own.rabbitmq_url, **wanted)
    await stock.startup()
    await stock.shutdown()
    assert [queue.name for queue in stock._task_queues] == ["taskiq"]
    assert not await exists(rig, wanted["queue_name"])
    with pytest.raises(TypeError, match="queue_name"):
        RabbitMQBroker(rig.own, "queue", "key", 1, **wanted)
    with pytest.raises(ValueError, match="queue_name"):
        Settings(taskiq_ml_queue_name="mine")
