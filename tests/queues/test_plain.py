"""Questions and declarations leave nothing behind, neither here nor at RabbitMQ."""

import asyncio
import gc
import tracemalloc

import pytest

from bridge.queues import build_broker
from bridge.queues.depths import ready_messages


async def test_a_question_that_is_asked_for_weeks_leaves_nothing(peer, connection):
    peer.queues.add("q")
    peer.waiting = 7

    async def ask(times):
        for _ in range(times):
            assert await ready_messages(connection, "q") == 7
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = await ask(100)
        assert await ask(300) - before < 300 * 1500  # bytes
    finally:
        tracemalloc.stop()
    assert peer.open_channels == 0


async def test_a_question_about_a_queue_that_is_gone_leaves_no_channel(peer, connection):
    for _ in range(20):
        assert await ready_messages(connection, "gone") is None
    await asyncio.sleep(0.2)
    assert peer.open_channels == 0
    peer.queues.add("gone")
    assert await ready_messages(connection, "gone") == 0


async def test_without_a_connection_a_question_is_an_error_at_once(peer, connection):
    await connection.transport.close(None)
    with pytest.raises((OSError, RuntimeError)):
        await ready_messages(connection, "q")


async def test_pauses_do_not_add_up_to_declarations_at_a_reconnection(peer, settings):
    broker = build_broker(settings, "inference")
    broker.is_worker_process = True
    await broker.startup()
    channel = await broker.read_channel.get_underlay_channel()
    for _ in range(10):
        await broker._declare()
    before = peer.asked["Queue.Declare"]
    await channel.close()
    async with asyncio.timeout(10):
        while await broker.read_channel.get_underlay_channel() is channel:
            await asyncio.sleep(0.01)
    assert peer.asked["Queue.Declare"] == before  # who consumes declares, once
    assert peer.open_channels == 2
    await broker.shutdown()
