"""Whoever waits for a result goes on waiting while Redis is away, whatever redis-py raises then."""

import asyncio

import msgpack
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from bridge.channels import listen
from bridge.client import BridgeClient, TaskHandle, replies
from bridge.client.replies import Replies
from bridge.errors import ResultTimeoutError
from bridge.results import reply_channel
from bridge.settings import Settings

KEPT = b'{"is_err": false, "return_value": 1, "execution_time": 0}'


class Silenced(Redis):
    """Its first subscription hears nothing while `silent`."""

    made, silent = 0, False

    def pubsub(self, **options):
        subscription = super().pubsub(**options)
        Silenced.made += 1
        if Silenced.made == 1:
            get_message = subscription.get_message

            async def hear(**options):
                message = await get_message(**options)
                return None if Silenced.silent else message

            subscription.get_message = hear
        return subscription


LOST = [
    RedisConnectionError("lost"),
    OSError("lost"),
    RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"),  # uvloop
]


class Losing(Redis):
    """Fails once, then works."""

    error = None

    def pipeline(self, *arguments, **options):
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().pipeline(*arguments, **options)

    def pubsub(self, **options):
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().pubsub(**options)


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
async def test_a_lost_connection_is_no_caller_s_error(redis_server, error):
    async with Losing.from_url(redis_server.url) as redis:
        replies = Replies(redis)
        await redis.set("kept", KEPT)
        redis.error = error
        result = await asyncio.wait_for(replies.wait("kept"), 20)
        assert result.return_value == 1
        await replies.close()


async def test_any_number_is_waited_for_over_two_connections(redis_server):
    ids = [f"of-many-{n}" for n in range(300)]
    async with Redis.from_url(redis_server.url, max_connections=2) as redis:
        replies = Replies(redis)
        waiting = [asyncio.create_task(replies.wait(it)) for it in ids]
        await asyncio.sleep(0)
        await redis.mset(dict.fromkeys(ids, KEPT))
        async with asyncio.timeout(60):
            results = await asyncio.gather(*waiting)
        assert [result.return_value for result in results] == [1] * 300
        assert replies.trouble is None
        await redis.delete(*ids)
        await replies.close()


async def test_any_number_is_cancelled_at_once(redis_server):
    client = BridgeClient(Settings(redis_url=redis_server.url))
    answers = await asyncio.gather(*(client.cancel(f"many-{number}") for number in range(300)))
    assert answers == [True] * 300
    await client.close()


async def test_who_asks_again_hears_at_once(redis_server, monkeypatch):
    monkeypatch.setattr(replies, "_REREAD_S", 1000.0)  # nobody reads by himself
    async with Redis.from_url(redis_server.url) as redis:
        heard = Replies(redis)
        waiter = heard.expect("again")
        waiter.value = KEPT
        waiter.arrived.set()
        async with asyncio.timeout(60):
            for _ in range(3):
                assert (await heard.wait("again", waiter)).return_value == 1
        await heard.close()


async def test_who_still_waits_when_it_is_closed_is_not_left_behind(redis_server, monkeypatch):
    async with Redis.from_url(redis_server.url) as redis:
        replies = Replies(redis)
        monkeypatch.setattr(replies, "_values", lambda ids: asyncio.Event().wait())
        reads = [asyncio.create_task(replies._read(it)) for it in ("a", "b")]
        await asyncio.sleep(0)
        reads.append(asyncio.create_task(replies._read("c")))
        await asyncio.sleep(0)
        await replies.close()
        assert await asyncio.wait_for(asyncio.gather(*reads), 60) == [None] * 3


@pytest.fixture
async def user(redis_server):
    """Of this name and password; what it may do is set by its test."""
    async with Redis.from_url(redis_server.url) as admin:

        async def may(*rights):
            await admin.execute_command("ACL", "SETUSER", "who", "reset", "on", ">any", *rights)
            return f"redis://who:any@{redis_server.address}/0"

        yield may
        await admin.execute_command("ACL", "DELUSER", "who")


async def test_a_timeout_says_that_redis_could_not_be_asked(redis, user):
    client = BridgeClient(Settings(redis_url=await user("~*", "+ping")))
    with pytest.raises(ResultTimeoutError, match=r"could not be asked.*security\.md"):
        await client.handle("unread").result(1)
    await user("~*", "+ping", "+get")
    with pytest.raises(ResultTimeoutError, match="are workers up"):
        await client.handle("unread").result(1)
    await client.close()


async def test_who_waits_no_time_at_all_hears_of_what_has_ended(redis, redis_server):
    client = BridgeClient(Settings(redis_url=redis_server.url))
    await redis.set("ended", KEPT)
    assert await client.handle("ended").result(0) == 1
    with pytest.raises(ResultTimeoutError, match="no task has this id, or its record has expired"):
        await client.handle("nobody-s").result(0)
    sent = TaskHandle(client, "sent", client._connections.replies.expect("sent"))
    with pytest.raises(
        ResultTimeoutError, match=r"still queued or running: are workers up[^.]*\?$"
    ):
        await sent.result(0)
    await redis.set("sent", KEPT)
    assert await sent.result(0) == 1
    await redis.delete("ended", "sent")
    await client.close()


async def test_a_subscription_that_falls_silent_is_made_again(redis, redis_server, monkeypatch):
    """As behind a proxy that forgot the connection: it stays open, and nothing comes."""
    monkeypatch.setattr(replies, "_QUIET_S", 0.2)
    monkeypatch.setattr(replies, "_REREAD_S", 1000.0)  # nobody reads by himself
    async with Silenced.from_url(redis_server.url) as away:
        heard = Replies(away)
        await heard.start()
        await asyncio.sleep(1)
        assert Silenced.made == 1  # who answers is left alone
        Silenced.silent = True
        async with asyncio.timeout(20):
            while Silenced.made == 1:
                await asyncio.sleep(0.05)
            waiter = heard.expect("told")
            waiting = asyncio.create_task(heard.wait("told", waiter))
            while not waiting.done():
                await redis.publish(reply_channel(heard.token), msgpack.packb(("told", KEPT)))
                await asyncio.sleep(0.05)
        assert (await waiting).return_value == 1
        await heard.close()


async def test_a_timeout_says_that_redis_does_not_answer(monkeypatch):
    monkeypatch.setattr(replies, "_SILENT_S", 0.1)

    async def silent(reader, writer):
        await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        client = BridgeClient(Settings(redis_url=f"redis://127.0.0.1:{port}/0"))
        with pytest.raises(ResultTimeoutError, match=r"could not be asked.*no answer for"):
            await client.handle("unread").result(1)
        await client.close()


async def test_a_user_without_channels_is_told_once(redis, user, caplog):
    url = await user("~*", "+ping", "+get", "resetchannels")
    async with Redis.from_url(url) as few:
        replies = Replies(few)
        await replies.start()
        async with asyncio.timeout(60):
            await replies._listener  # it ends
        await redis.set("kept", KEPT)
        assert (await replies.wait("kept")).return_value == 1
        await replies.close()
    assert [record.getMessage() for record in caplog.records] == [
        "this Redis user may not subscribe: results are read about once a second"
    ]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
async def test_a_listener_listens_again(redis_server, error):
    heard, ready = [], asyncio.Event()

    async def hear(text):
        heard.append(text)

    async def unsure():
        ready.set()

    async with Losing.from_url(redis_server.url) as redis:
        redis.error = error
        listening = asyncio.create_task(listen(redis, "news", hear, unsure))
        await asyncio.wait_for(ready.wait(), 20)
        await redis.publish("news", "hello")
        async with asyncio.timeout(20):
            while not heard:
                await asyncio.sleep(0.05)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert heard == ["hello"]
