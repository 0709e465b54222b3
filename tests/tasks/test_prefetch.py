"""How much a worker has in hand follows what its models can use."""

import asyncio

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


async def test_a_consumer_takes_what_is_wanted_and_pauses(channel):
    queue = await channel.declare_queue(
        "wanted", durable=True, arguments={"x-queue-type": "quorum"}
    )
    for number in range(100):
        await channel.default_exchange.publish(
            aio_pika.Message(str(number).encode(), delivery_mode=2), "wanted"
        )
    wanted, in_hand, seen = 4, [], []

    async def receive(message):
        in_hand.append(message)
        seen.append(int(message.body))

    async def nothing():
        pass

    consumer = Consumer(
        channel,
        Queue(name="wanted", routing_key="wanted"),
        prefetch=lambda: wanted,
        room=lambda: 200 - len(in_hand),
        declare=nothing,
        receive=receive,
    )
    running = asyncio.create_task(consumer.run())

    async def settled():
        """What is in hand, once nothing more comes."""
        before = -1
        while len(in_hand) != before or not in_hand:
            before = len(in_hand)
            await asyncio.sleep(0.5)
        return before

    async def done():
        while in_hand:
            message = in_hand.pop()
            await message.channel.basic_ack(message.delivery_tag)

    assert await settled() == 4
    wanted = 16
    assert await settled() == 4 + 16  # of two consumers, for as long as the first's are in hand
    await done()
    assert await settled() == 16
    wanted = 0
    async with asyncio.timeout(20):
        while consumer.consuming:
            await asyncio.sleep(0.05)
    await done()
    await asyncio.sleep(1.0)
    assert not in_hand
    wanted = 100
    async with asyncio.timeout(20):
        while len(seen) < 100:
            await asyncio.sleep(0.05)
    assert sorted(seen) == list(range(100))
    await done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await consumer.cancel()
    await queue.delete(if_unused=False, if_empty=False)


async def test_a_consumer_outlives_a_connection_that_closes_without_a_reason(channel):
    queue = await channel.declare_queue(
        "outlived", durable=True, arguments={"x-queue-type": "quorum"}
    )
    declared = 0

    async def declare():
        nonlocal declared
        declared += 1
        if declared == 1:  # what aiormq tells those who wait while it closes a connection
            raise Exception  # noqa: TRY002 - the very class

    async def receive(message):
        pass

    consumer = Consumer(
        channel,
        Queue(name="outlived", routing_key="outlived"),
        prefetch=lambda: 4,
        room=lambda: 4,
        declare=declare,
        receive=receive,
    )
    running = asyncio.create_task(consumer.run())
    async with asyncio.timeout(60):
        while not consumer.consuming:
            await asyncio.sleep(0.05)
            assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await consumer.cancel()
    await queue.delete(if_unused=False, if_empty=False)


async def test_changes_of_prefetch_bring_no_more_than_there_is_room_for(channel):
    queue = await channel.declare_queue(
        "crowded", durable=True, arguments={"x-queue-type": "quorum"}
    )
    for number in range(100):
        await channel.default_exchange.publish(
            aio_pika.Message(str(number).encode(), delivery_mode=2), "crowded"
        )
    wanted, in_hand = 4, []

    async def receive(message):  # and nothing ends, as while Redis takes no results
        in_hand.append(message)

    async def nothing():
        pass

    consumer = Consumer(
        channel,
        Queue(name="crowded", routing_key="crowded"),
        prefetch=lambda: wanted,
        room=lambda: 32 - len(in_hand),
        declare=nothing,
        receive=receive,
    )
    running = asyncio.create_task(consumer.run())
    for now, came in ((4, 4), (16, 20), (4, 24), (16, 24), (8, 32), (16, 32), (4, 32)):
        wanted = now
        await asyncio.sleep(3.0)  # less is wanted for two seconds before it counts
        assert len(in_hand) == came
    while in_hand:
        message = in_hand.pop()
        await message.channel.basic_ack(message.delivery_tag)
    async with asyncio.timeout(20):
        while not in_hand:
            await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await consumer.cancel()
    await queue.delete(if_unused=False, if_empty=False)
