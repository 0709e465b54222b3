"""A connection falls silent, as behind a cable that was cut: aiormq cancels who waits for it."""

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiormq.exceptions
import pytest
from taskiq import BrokerMessage
from taskiq_aio_pika.queue import Queue

from bridge.client import BridgeClient
from bridge.errors import ModelUnavailableError, QueueError
from bridge.queues import build_broker
from bridge.queues.consumer import Consumer
from bridge.queues.depths import ready_messages
from bridge.queues.reach import reach_rabbitmq
from bridge.settings import Settings

MESSAGE = BrokerMessage(task_id="a", task_name="t", message=b"{}", labels={})


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def new_consumer(connection):
    """A running consumer of the queue `q`, as `changed` has it."""
    running = []

    async def begin(**changed):
        async def nothing(*_):
            pass

        asked = {
            "prefetch": lambda: 10,
            "room": lambda: 10,
            "declare": nothing,
            "receive": nothing,
        }
        channel = await connection.channel()
        consumer = Consumer(channel, Queue(name="q"), **asked | changed)
        task = asyncio.create_task(consumer.run())
        running.append(task)
        return consumer, task

    yield begin
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_consumer_outlives_the_silence_in_which_it_began(peer, new_consumer):
    wanted = 0
    consumer, running = await new_consumer(prefetch=lambda: wanted)
    peer.queues.add("q")
    await asyncio.sleep(0.3)
    peer.mute, wanted = True, 10
    lines = list(peer.lines)
    await until(lambda: not set(lines) & set(peer.lines))
    peer.mute = False
    await until(lambda: consumer.consuming or running.done())
    assert consumer.consuming


async def test_a_declaration_that_is_not_answered_is_tried_again(peer, new_consumer, monkeypatch):
    monkeypatch.setattr("bridge.queues.consumer._REPLY_S", 0.2)
    peer.queues.add("q")
    tries = 0

    async def declare():
        nonlocal tries
        tries += 1
        await asyncio.sleep(100 if tries == 1 else 0)

    consumer, _ = await new_consumer(declare=declare)
    await until(lambda: consumer.consuming)


async def test_a_queue_that_is_gone_is_not_asked_for_all_the_time(
    peer, connection, new_consumer, caplog
):
    async def declare():
        if await ready_messages(connection, "q") is None:
            raise aiormq.exceptions.ChannelNotFoundEntity("q")

    peer.queues.add("q")
    consumer, _ = await new_consumer(declare=declare)
    await until(lambda: consumer.consuming)
    peer.lose("q")
    await until(lambda: not consumer.consuming)
    asked = peer.asked.copy()
    await asyncio.sleep(2.5)
    assert 0 < peer.asked["Queue.Declare"] - asked["Queue.Declare"] <= 3
    assert peer.asked["Channel.Open"] - asked["Channel.Open"] <= 3
    peer.queues.add("q")
    await until(lambda: consumer.consuming)
    assert "cannot consume q" in caplog.text


async def test_who_sends_into_the_silence_is_not_cancelled(peer, settings, url):
    broker = build_broker(settings, "inference")
    broker.url = url
    await broker.startup()
    peer.mute = True
    sending = asyncio.create_task(broker.kick(MESSAGE))
    lines = list(peer.lines)
    await until(lambda: not set(lines) & set(peer.lines))
    peer.mute = False
    async with asyncio.timeout(20):
        await sending
    await broker.shutdown()


async def test_who_is_cancelled_while_he_sends_is(peer, settings):
    broker = build_broker(settings, "inference")
    await broker.startup()
    peer.mute = True
    sending = asyncio.create_task(broker.kick(MESSAGE))
    await asyncio.sleep(0.1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await sending
    peer.mute = False
    await broker.shutdown()


async def test_a_question_into_the_silence_is_an_error(peer, connection, monkeypatch):
    peer.mute = True
    with pytest.raises(OSError, match="has fallen silent"):
        await ready_messages(connection, "q")


async def test_what_asks_on_a_channel_of_its_own_hears_of_the_silence_too(settings, monkeypatch):
    @asynccontextmanager
    async def connected(_):
        yield None

    async def connect(url):
        return connected(url)

    monkeypatch.setattr("bridge.queues.reach.connect", connect)
    with pytest.raises(QueueError, match="has fallen silent"):
        async with reach_rabbitmq(settings):
            raise asyncio.CancelledError


class Delivery(SimpleNamespace):
    """A message whose connection falls silent when it is to come back later."""

    body = json.dumps({"task_id": "a", "task_name": "t", "labels": {}, "args": [], "kwargs": {}})
    redelivered, deliveries, attempt, crashes, waits, sent_at = False, 1, 1, 0, 0, None

    async def retry(self, wait_s, *, counting):
        raise asyncio.CancelledError

    async def hand_back(self):
        self.handed_back = True


async def test_a_message_whose_connection_falls_silent_is_handed_back(settings):
    broker = build_broker(settings, "inference")

    async def away(message, turn):
        raise ModelUnavailableError("away")

    broker.intake.shortcuts["t"] = away
    delivery = Delivery()
    delivery.body = delivery.body.encode()
    async with asyncio.timeout(5):
        await broker.intake.take(delivery)
    assert delivery.handed_back


async def test_a_client_leaves_a_rabbitmq_that_says_no_goodbye(peer, redis_server, monkeypatch):
    monkeypatch.setattr("bridge.client.connections._CLOSE_S", 0.2)
    settings = Settings(
        rabbitmq_host="127.0.0.1", rabbitmq_port=peer.port, redis_url=redis_server.url
    )
    async with BridgeClient(settings) as client:
        peer.confirms = False
        with pytest.raises(QueueError, match=r"not taken within 0\.5 s"):
            await asyncio.wait_for(client.infer("double", {"x": [[1]]}, timeout_s=0.5), 20)
        peer.mute = True  # as when it is short of memory, to who published
        leaving = asyncio.create_task(client.close())
        done, _ = await asyncio.wait([leaving], timeout=30)
        peer.mute = False
        await leaving
        assert done
    await until(lambda: not peer.lines)
