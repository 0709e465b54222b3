"""RabbitMQ closes the channel for writing, or takes messages and does not say so."""

import asyncio
import time

import pytest
from taskiq import BrokerMessage

from bridge.errors import QueueError
from bridge.queues import build_broker

MESSAGE = BrokerMessage(task_id="a", task_name="t", message=b"{}", labels={})
DELAYED = MESSAGE.model_copy(update={"labels": {"delay": 1}})


@pytest.fixture
async def broker(peer, settings, monkeypatch):
    monkeypatch.setattr("bridge.queues.rabbitmq._PUBLISH_S", 1.0)
    monkeypatch.setattr("bridge.queues.rabbitmq._AGAIN_S", 0.1)
    peer.exchanges.add(settings.taskiq_ml_exchange)
    peer.different.add(settings.taskiq_ml_exchange)
    broker = build_broker(settings, "inference")
    await broker.startup()
    yield broker
    peer.mute = False
    await broker.shutdown()


@pytest.fixture
async def closed(peer, settings, broker):
    """The exchange, which is somebody else's to declare, was gone for a while: aio-pika gave up."""
    peer.exchanges.clear()
    with pytest.raises(QueueError, match="did not take the task"):
        await broker.kick(MESSAGE)
    assert broker.write_channel.is_closed
    peer.exchanges.add(settings.taskiq_ml_exchange)


async def test_a_closed_channel_for_writing_is_opened_when_it_can_be(broker, closed):
    await broker.kick(MESSAGE)
    await broker.kick(DELAYED)


async def test_a_delayed_message_opens_the_channel_too(broker, closed):
    await broker.kick(DELAYED)


async def test_many_who_send_do_not_each_open_a_channel(peer, settings, broker, closed):
    peer.exchanges.clear()
    before = peer.asked["Channel.Open"]
    kicks = [broker.kick(MESSAGE) for _ in range(100)]
    failures = await asyncio.gather(*kicks, return_exceptions=True)
    assert {type(failure) for failure in failures} == {QueueError}
    assert peer.asked["Channel.Open"] - before <= 10


@pytest.mark.parametrize("message", [MESSAGE, DELAYED], ids=["at once", "delayed"])
async def test_who_gets_no_confirmation_hears_of_it_in_time(peer, broker, message):
    await broker.kick(message)
    peer.confirms = False
    began = time.monotonic()
    async with asyncio.timeout(10):
        with pytest.raises(QueueError, match=r"within 1 s \(TimeoutError\)"):
            await broker.kick(message)
    assert time.monotonic() - began < 5
    peer.confirms = True
    await broker.kick(message)


async def test_who_is_refused_by_a_full_queue_hears_that_it_is_full(peer, broker):
    peer.full = True
    with pytest.raises(QueueError, match="refuses the task: its queue is full"):
        await broker.kick(MESSAGE)
    peer.full = False
    await broker.kick(MESSAGE)


async def test_who_is_not_read_hears_of_it_in_time(peer, broker):
    peer.mute = True
    async with asyncio.timeout(10):
        with pytest.raises(QueueError, match="within 1 s"):
            await broker.kick(MESSAGE)
