"""A client that is opened, used and closed at the wrong time, or from the wrong place."""

import asyncio

import numpy as np
import pytest

from bridge.client import BridgeClient
from bridge.client.replies import Replies
from bridge.errors import QueueError
from bridge.queues.rabbitmq import RabbitMQBroker
from bridge.settings import Settings

INPUTS = {"x": [[1]]}


@pytest.fixture
def settings(peer, redis_server):
    return Settings(rabbitmq_host="127.0.0.1", rabbitmq_port=peer.port, redis_url=redis_server.url)


async def until_gone(peer):
    async with asyncio.timeout(20):
        while peer.lines:
            await asyncio.sleep(0.02)


async def test_who_gives_up_opening_leaves_nothing_behind(peer, settings, monkeypatch):
    begun = asyncio.Event()

    async def never(self):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Replies, "start", never)
    opening = asyncio.create_task(BridgeClient(settings).__aenter__())
    async with asyncio.timeout(20):
        await begun.wait()
    assert peer.lines
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    await until_gone(peer)


async def test_who_gives_up_connecting_does_not_connect_later(peer, settings, monkeypatch):
    find = RabbitMQBroker._find

    async def found(self):
        await find(self)
        peer.mute = True

    monkeypatch.setattr(RabbitMQBroker, "_find", found)
    opening = asyncio.create_task(BridgeClient(settings).__aenter__())
    async with asyncio.timeout(20):
        while not (peer.mute and peer.lines):
            await asyncio.sleep(0.02)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    peer.mute = False
    await asyncio.sleep(3)  # it would try once a second
    assert not peer.lines


async def test_a_closed_client_says_so_at_once(peer, settings):
    async with BridgeClient(settings) as client:
        peer.confirms = False
        sending = asyncio.create_task(client.submit("double", INPUTS))
        async with asyncio.timeout(20):
            while not peer.asked["Basic.Publish"]:
                await asyncio.sleep(0.02)
    async with asyncio.timeout(10):  # otherwise it tries for half a minute
        with pytest.raises(QueueError, match="shut down"):
            await sending
        with pytest.raises(QueueError, match="async with BridgeClient"):
            await client.submit("double", INPUTS)
    async with client:
        peer.confirms = True
        await client.submit("double", INPUTS)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.infer("double", INPUTS, timeout_s=5),
        lambda client: client.train("iris", {"architecture": "mlp"}),
        lambda client: client.handle("t").result(5),
        lambda client: client.cancel("t"),
        lambda client: client.pause("t"),
        lambda client: client.resume("t"),
        lambda client: client.progress("t"),
        lambda client: client.job("t"),
        lambda client: client.upload(np.zeros((1, 1))),
        lambda client: client.read_reply({"outputs": {}}),
    ],
)
async def test_another_event_loop_is_told_to_open_a_client_of_its_own(settings, call):
    async with BridgeClient(settings) as client:
        with pytest.raises(QueueError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(call(client)))
        await client.submit("double", INPUTS)
