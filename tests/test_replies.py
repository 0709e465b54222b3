"""Whoever waits for a result goes on waiting while Redis is away, whatever redis-py raises then."""

import asyncio

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from bridge.channels import listen
from bridge.client.replies import Replies

LOST = [
    RedisConnectionError("lost"),
    OSError("lost"),
    RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed"),  # uvloop
]


class Losing(Redis):
    """Fails once, then works."""

    error = None

    async def execute_command(self, *arguments, **options):
        error, self.error = self.error, None
        if error is not None:
            raise error
        return await super().execute_command(*arguments, **options)

    def pubsub(self, **options):
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().pubsub(**options)


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
async def test_a_lost_connection_is_no_caller_s_error(redis_server, error):
    async with Losing.from_url(redis_server.url) as redis:
        replies = Replies(redis)
        await redis.set("kept", b'{"is_err": false, "return_value": 1, "execution_time": 0}')
        redis.error = error
        result = await asyncio.wait_for(replies.wait("kept"), 20)
        assert result.return_value == 1


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
