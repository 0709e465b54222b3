"""Results of many tasks on their way into a real Redis."""

import asyncio
import uuid

import msgpack
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from taskiq import TaskiqResult

from bridge import results
from bridge.cancellations import cancel
from bridge.embedded.redis import RedisServer
from bridge.jobs import Jobs
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


async def refused_once(ask):
    """By the replica, which is left for that."""
    with pytest.raises(ResponseError, match=r"read only replica"):
        await ask()
    await ask()


async def test_a_demoted_master_is_left_for_whoever_has_its_address_now(state):
    """A name or a proxy leads to one Redis, then to the other; connections that are open stay."""

    async def forward(reader, writer):
        there = await asyncio.open_connection("127.0.0.1", port)

        async def pump(reader, writer):
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()

        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer), return_exceptions=True)

    async with (
        RedisServer(state) as old,
        RedisServer(state) as new,
        Redis.from_url(old.url) as demoted,
        Redis.from_url(new.url) as master,
        await asyncio.start_server(forward, "127.0.0.1") as proxy,
    ):
        for server in (demoted, master):
            await server.config_set("requirepass", "any")
        port, url = old.port, f"redis://:any@127.0.0.1:{proxy.sockets[0].getsockname()[1]}/0"
        store = RedisResults(Settings(redis_url=url))
        before, after, training = fresh(3)
        await store.save(before, b"1")
        async with Redis.from_url(url) as canceller, Redis.from_url(url) as caller:
            for connected in (canceller, caller):
                await connected.ping()
            await demoted.replicaof("127.0.0.1", 1)
            port = new.port
            async with asyncio.timeout(60):
                await store.save(after, b"2")
                await refused_once(lambda: cancel(canceller, training, 60))
                jobs = Jobs(caller, "queue", lease_s=60, keep_s=60)
                await refused_once(lambda: jobs.register(training, 1))
            assert await master.get(after) == b"2"
            await store.shutdown()


async def test_who_handed_out_an_error_and_goes_on_is_not_ended_with_it(store):
    """A pool of a user's own, say, whose coroutine caught the error that a task then ended in."""
    handed_out, go_on = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def pool():
        try:
            _ = 1 / 0
        except ZeroDivisionError as error:
            handed_out.set_exception(error)
        await go_on.wait()
        return "well"

    running = asyncio.create_task(pool())
    with pytest.raises(ZeroDivisionError) as caught:
        await handed_out
    failed = TaskiqResult(is_err=True, return_value=None, execution_time=0, error=caught.value)
    await store.set_result(fresh(1)[0], failed)
    go_on.set()
    assert await asyncio.wait_for(running, 10) == "well"
