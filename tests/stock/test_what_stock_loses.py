"""What stock taskiq does to a message on RabbitMQ, and what our broker does to the same one."""

import asyncio
import json
from contextlib import asynccontextmanager

import aio_pika
import numpy as np
import pytest
from redis.asyncio import Redis
from taskiq import TaskiqMessage, TaskiqMiddleware
from taskiq.formatters.json_formatter import JSONFormatter
from taskiq.kicker import AsyncKicker
from taskiq.receiver import Receiver
from taskiq.serializers import PickleSerializer
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue
from taskiq_redis import RedisAsyncResultBackend

from bridge.deliveries import Turn
from bridge.embedded.redis import RedisServer
from bridge.messages import CONTENT_TYPE, MSGPACK, Formatter
from bridge.queues import build_broker, queue_depths
from bridge.queues.tiers import Tiers
from bridge.settings import Settings

KINDS = ["stock", "ours"]


@pytest.fixture
def own(rabbitmq, redis_server, request):
    """Queues that only this test uses."""
    name = request.node.name.replace("[", "_").replace("]", "")[:80]
    return Settings(
        rabbitmq_host="127.0.0.1",
        rabbitmq_port=rabbitmq.port,
        rabbitmq_username=rabbitmq.username,
        rabbitmq_password=rabbitmq.password,
        redis_url=redis_server.url,
        taskiq_ml_exchange=f"{name}_x",
        taskiq_ml_queue=name,
        taskiq_ml_routing_key=name,
        bridge_drain_timeout_s=1.0,
    )


def broker_of(kind, own, *middlewares):
    """A broker with one task, `shout`, which ours runs in its intake."""
    if kind == "ours":
        broker = build_broker(own, "inference")
    else:
        broker = AioPikaBroker(
            own.rabbitmq_url,
            exchange=Exchange(name=own.taskiq_ml_exchange),
            task_queues=[Queue(name=own.taskiq_ml_queue)],
            dead_letter_queue=Queue(name=f"{own.taskiq_ml_queue}.dead_letter"),
        ).with_result_backend(RedisAsyncResultBackend(own.redis_url.get_secret_value()))
    broker.add_middlewares(*middlewares)

    @broker.task("shout")
    async def shout(text: str) -> str:
        return text.upper()

    async def shortcut(message: TaskiqMessage, _turn: Turn) -> str:
        return await shout.original_func(*message.args)

    if kind == "ours":
        broker.intake.shortcuts["shout"] = shortcut
    return broker


@asynccontextmanager
async def serving(broker):
    """A worker, in this process."""
    broker.is_worker_process = True
    stop = asyncio.Event()
    receiver = Receiver(broker, run_startup=True, wait_tasks_timeout=1)
    task = asyncio.create_task(receiver.listen(stop))
    try:
        yield
    finally:
        stop.set()
        await task
        await broker.shutdown()


async def publish(own, *bodies):
    connection = await aio_pika.connect(own.rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(own.taskiq_ml_exchange)
        for body in bodies:
            await exchange.publish(
                aio_pika.Message(body, delivery_mode=2), routing_key=own.taskiq_ml_routing_key
            )


def task(task_id, name="shout"):
    fields = {"task_id": task_id, "task_name": name, "labels": {}, "args": ["hello"], "kwargs": {}}
    return json.dumps(fields).encode()


async def declared(kind, own):
    broker = broker_of(kind, own)
    await broker.startup()
    await broker.shutdown()


async def taken(own):
    """Wait until the queue has handed everything out."""
    async with asyncio.timeout(20):
        while (await queue_depths(own))[0].messages:
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)  # and whatever is done about it is done


async def counts(own):
    """Messages in the queue and in its dead letters, once nobody holds any."""
    await asyncio.sleep(0.2)
    depths = await queue_depths(own)
    return depths[0].messages, depths[1].messages


@pytest.mark.parametrize("kind", KINDS)
async def test_a_result_that_cannot_be_saved(kind, own, state):
    """1: stock acknowledges, and the result is gone; ours goes back to the queue."""
    async with RedisServer(state) as redis:
        own = own.model_copy(update={"redis_url": type(own.redis_url)(redis.url)})
        await declared(kind, own)
        async with serving(broker_of(kind, own)):
            await redis.kill()
            await publish(own, task("unsaved"))
            await taken(own)
        assert await counts(own) == ((0, 0) if kind == "stock" else (1, 0))


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_run(kind, own):
    """2: stock acknowledges nonsense and unknown tasks; ours dead-letters them."""
    await declared(kind, own)
    async with serving(broker_of(kind, own)):
        await publish(own, b"nonsense", task("stranger", "nobodys_task"))
        await taken(own)
    assert await counts(own) == ((0, 0) if kind == "stock" else (0, 2))


def broken(hook):
    """A middleware whose hook fails."""

    def fail(*_arguments):
        raise RuntimeError("a middleware's own error")

    return type("Broken", (TaskiqMiddleware,), {hook: fail})()


@pytest.mark.parametrize("hook", ["pre_execute", "post_execute"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_middleware_that_fails(kind, hook, own):
    """3: stock leaves the message unacknowledged, and nobody hears; ours comes to an end."""
    await declared(kind, own)
    task_id = f"{kind}-{hook}"
    async with serving(broker_of(kind, own, broken(hook))):
        await publish(own, task(task_id))
        await taken(own)
    async with Redis.from_url(own.redis_url.get_secret_value()) as redis:
        assert bool(await redis.exists(task_id)) == (kind == "ours")
    assert await counts(own) == ((1, 0) if kind == "stock" else (0, 0))


async def test_a_short_delay_behind_a_long_one(own):
    """8: in stock's one delay queue it waits for the long one; in ours it does not."""
    await declared("stock", own)
    waits = {"long": 3, "short": 1}
    delays = Queue(name=f"{own.taskiq_ml_queue}.stock_delays")
    stock = AioPikaBroker(
        own.rabbitmq_url,
        exchange=Exchange(name=own.taskiq_ml_exchange),
        task_queues=[Queue(name=own.taskiq_ml_queue)],
        dead_letter_queue=Queue(name=f"{own.taskiq_ml_queue}.dead_letter"),
        delay_queue=delays,
    )
    await stock.startup()
    for name, wait_s in waits.items():
        await AsyncKicker(name, stock, {"delay": wait_s}).with_task_id(name).kiq()
    assert await arrivals(own) == ["long", "short"]
    await stock.shutdown()
    await publish(own, *(task(name) for name in waits))
    connection = await aio_pika.connect(own.rabbitmq_url)
    async with connection:
        channel = await connection.channel()
        tiers = Tiers(own.taskiq_ml_queue, delays.type)
        queue = await channel.get_queue(own.taskiq_ml_queue)
        underlay = await channel.get_underlay_channel()
        for _ in waits:
            message = await underlay.basic_get(queue.name)
            wait_s = waits[json.loads(message.body)["task_id"]]
            await tiers.publish(
                connection, channel.default_exchange, message, wait_s=wait_s, counts={}
            )
            await underlay.basic_ack(message.delivery_tag)
    assert await arrivals(own) == ["short", "long"]


async def arrivals(own):
    connection = await aio_pika.connect(own.rabbitmq_url)
    async with connection, asyncio.timeout(30):
        queue = await (await connection.channel()).get_queue(own.taskiq_ml_queue)
        found = []
        while len(found) < 2:
            message = await queue.get(fail=False, no_ack=True)
            if message is not None:
                found.append(json.loads(message.body)["task_id"])
            await asyncio.sleep(0.02)
        return found


def test_an_array_as_an_argument():
    """13: stock makes lists or text of it, or fails; ours sends bytes."""
    message = TaskiqMessage(
        task_id="1", task_name="t", labels={CONTENT_TYPE: MSGPACK}, args=[b"\xff\x00"], kwargs={}
    )
    with pytest.raises(ValueError, match="utf"):
        JSONFormatter().dumps(message)
    formatter = Formatter()
    assert formatter.loads(formatter.dumps(message).message).args == [b"\xff\x00"]
    message.args = [np.arange(3)]
    with pytest.raises((ValueError, TypeError)):
        JSONFormatter().dumps(message)
    assert formatter.loads(formatter.dumps(message).message).args == [[0, 1, 2]]


def test_how_results_are_read(own):
    """14: stock unpickles what lies in Redis, and keeps it for ever; ours does neither."""
    stock = RedisAsyncResultBackend(own.redis_url.get_secret_value())
    ours = build_broker(own, "inference").results
    assert isinstance(stock.serializer, PickleSerializer)
    assert stock.result_ex_time is None
    assert not isinstance(ours.serializer, PickleSerializer)
    assert ours.result_ex_time == own.bridge_result_ttl_s
