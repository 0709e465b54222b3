"""How much a worker has in hand follows what its models can use."""

import asyncio
from contextlib import asynccontextmanager

import aio_pika
import pytest
from taskiq_aio_pika.queue import Queue

from bridge.batcher import Batcher
from bridge.queues.consumer import Consumer
from bridge.specs import InferReply, ModelSpec
from bridge.tensors import Tensor, TensorSpec

ROW = Tensor("FP32", (1, 1), b"\0\0\0\0")


def spec(name, max_batch_size):
    tensor = {"x": TensorSpec("x", "FP32", (-1, 1))}
    return ModelSpec(name, max_batch_size, tensor, tensor, mixable=max_batch_size > 0)


async def test_a_batch_gathers_for_each_that_may_be_out():
    release = asyncio.Event()

    async def send(name, inputs, *, version, timeout_s):
        await release.wait()
        return InferReply(name, "1", dict(inputs))

    batcher = Batcher(send)
    assert batcher.appetite() == 0
    large = batcher.submit(spec("large", 64), {"x": ROW}, timeout_s=60)
    assert batcher.appetite() == 2 * 2 * 64  # a limit of one, and one gathers
    small = batcher.submit(spec("small", 4), {"x": ROW}, timeout_s=60)
    alone = batcher.submit(spec("alone", 0), {"x": ROW}, timeout_s=60)
    assert batcher.appetite() == 2 * 2 * (64 + 4 + 1)
    release.set()
    await asyncio.gather(large, small, alone)
    more = [batcher.submit(spec("alone", 0), {"x": ROW}, timeout_s=60) for _ in range(100)]
    await asyncio.gather(*more)
    assert batcher.appetite() > 2 * 2 * (64 + 4 + 1)  # it has learnt that more may be out


@pytest.fixture
async def channel(settings):
    connection = await aio_pika.connect_robust(settings.rabbitmq_url)
    async with connection:
        yield await connection.channel()


@asynccontextmanager
async def consuming(channel, name, messages=0, **asked):
    """A consumer of a queue of its own, in which so many messages lie."""
    queue = await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
    for number in range(messages):
        message = aio_pika.Message(str(number).encode(), delivery_mode=2)
        await channel.default_exchange.publish(message, name)

    async def nothing(*_):
        pass

    usual = {"room": lambda: 1000, "declare": nothing, "receive": nothing}
    consumer = Consumer(channel, Queue(name=name, routing_key=name), **usual | asked)
    running = asyncio.create_task(consumer.run())
    yield consumer, running
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await consumer.cancel()
    await queue.delete(if_unused=False, if_empty=False)


async def acknowledge(messages):
    while messages:
        message = messages.pop()
        await message.channel.basic_ack(message.delivery_tag)


async def until(true):
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.05)


async def test_a_consumer_takes_what_is_wanted_and_pauses(channel):
    wanted, in_hand, seen = 4, [], []

    async def receive(message):
        in_hand.append(message)
        seen.append(int(message.body))

    async def settled():
        """What is in hand, once nothing more comes."""
        before = -1
        while len(in_hand) != before or not in_hand:
            before = len(in_hand)
            await asyncio.sleep(0.5)
        return before

    asked = {"prefetch": lambda: wanted, "receive": receive}
    async with consuming(channel, "wanted", 100, **asked) as (consumer, _):
        assert await settled() == 4
        wanted = 16
        assert await settled() == 4 + 16  # of two consumers, for as long as the first's are in hand
        await acknowledge(in_hand)
        assert await settled() == 16
        wanted = 0
        await until(lambda: not consumer.consuming)
        await acknowledge(in_hand)
        await asyncio.sleep(1.0)
        assert not in_hand
        wanted = 100
        await until(lambda: len(seen) == 100)
        assert sorted(seen) == list(range(100))
        await acknowledge(in_hand)


async def test_a_consumer_outlives_a_connection_that_closes_without_a_reason(channel):
    declared = 0

    async def declare():
        nonlocal declared
        declared += 1
        if declared == 1:  # what aiormq tells those who wait while it closes a connection
            raise Exception  # noqa: TRY002 - the very class

    asked = {"prefetch": lambda: 4, "declare": declare}
    async with consuming(channel, "outlived", **asked) as (consumer, running):
        await until(lambda: consumer.consuming or running.done())
        assert not running.done()


async def test_changes_of_prefetch_bring_no_more_than_there_is_room_for(channel):
    wanted, in_hand = 4, []

    async def receive(message):  # and nothing ends, as while Redis takes no results
        in_hand.append(message)

    asked = {"prefetch": lambda: wanted, "room": lambda: 32 - len(in_hand), "receive": receive}
    async with consuming(channel, "crowded", 100, **asked):
        for now, came in ((4, 4), (16, 20), (4, 24), (16, 24), (8, 32), (16, 32), (4, 32)):
            wanted = now
            await asyncio.sleep(3.0)  # less is wanted for two seconds before it counts
            assert len(in_hand) == came
        await acknowledge(in_hand)
        await until(lambda: in_hand)
