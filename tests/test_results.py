"""Results of many tasks on their way into a real Redis."""

import asyncio
import uuid

import msgpack
import pytest

from bridge import results
from bridge.results import RedisResults, reply_channel
from bridge.settings import Settings


@pytest.fixture
async def store(redis_server, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    store = RedisResults(Settings())
    yield store
    await store.shutdown()


@pytest.fixture
def commands(store, monkeypatch):
    """How many results each command brought."""
    seen, saved = [], RedisResults._saved

    async def spy(self, batch):
        seen.append(len(batch))
        return await saved(self, batch)

    monkeypatch.setattr(RedisResults, "_saved", spy)
    return seen


def fresh(count):
    return [uuid.uuid4().hex for _ in range(count)]


async def test_what_gathers_goes_together_and_each_is_kept_under_its_own_id(store, redis, commands):
    ids = fresh(600)
    await asyncio.gather(*(store.save(it, it.encode()) for it in ids))
    assert await redis.mget(ids) == [it.encode() for it in ids]
    assert 0 < await redis.ttl(ids[0]) <= Settings().bridge_result_ttl_s
    assert sum(commands) >= 600  # the first may have met a Redis without the script
    assert max(commands) == results._TOGETHER


async def test_large_ones_go_in_commands_of_bounded_size(store, redis, commands, monkeypatch):
    monkeypatch.setattr(results, "_TOGETHER_BYTES", 1000)
    ids = fresh(7)
    sizes = [10, 2000, 400, 400, 400, 1000, 1]
    await asyncio.gather(*(store.save(it, bytes(n)) for it, n in zip(ids, sizes, strict=True)))
    assert [len(value) for value in await redis.mget(ids)] == sizes
    assert commands[-6:] == [1, 1, 2, 1, 1, 1]


async def test_the_first_record_stays_and_the_listener_is_told_to_read(store, redis):
    task_id, token = uuid.uuid4().hex, "listener"
    async with redis.pubsub(ignore_subscribe_messages=True) as heard:
        await heard.subscribe(reply_channel(token))
        for value in (b"first", b"second"):
            await store.save(task_id, value, token)
        await store.save(uuid.uuid4().hex, b"nobody listens", None)
        pushed = []
        async with asyncio.timeout(20):
            while len(pushed) < 2:
                message = await heard.get_message(timeout=1)
                if message:
                    pushed.append(msgpack.unpackb(message["data"]))
    assert pushed == [[task_id, b"first"], [task_id, False]]
    assert await redis.get(task_id) == b"first"


async def test_one_that_redis_refuses_holds_up_no_other(store, redis, monkeypatch):
    monkeypatch.setattr(results, "_RETRY_S", 0.01)
    refused, good = uuid.uuid4().hex, uuid.uuid4().hex
    tries, saved = [], RedisResults._saved

    async def refusing(self, batch):
        answers = await saved(self, batch)
        for at, item in enumerate(batch):
            if item.task_id == refused and len(tries) < 2:
                tries.append(item)
                await redis.delete(refused)
                answers[at] = b"OOM command not allowed when used memory > 'maxmemory'."
        return answers

    monkeypatch.setattr(RedisResults, "_saved", refusing)
    await asyncio.gather(store.save(refused, b"a"), store.save(good, b"b"))
    assert len(tries) == 2
    assert await redis.mget([refused, good]) == [b"a", b"b"]
    assert store.waiting == 0
