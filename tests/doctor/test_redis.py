"""What the doctor finds on a real Redis."""

import asyncio
import contextlib
import shutil
from urllib.parse import urlsplit, urlunsplit

import pytest
from redis.asyncio import Redis
from taskiq import TaskiqResult
from taskiq_redis import RedisAsyncResultBackend

from bridge.embedded.ports import free_ports
from bridge.messages import encode_result


@pytest.fixture
async def redis(own_redis):
    async with Redis.from_url(own_redis.url) as redis:
        yield redis
        await redis.flushall()


@pytest.fixture
def set_to(redis):
    """CONFIG SET, as long as the block lasts."""

    @contextlib.asynccontextmanager
    async def setting(**values):
        before = {}
        for name, value in values.items():
            name = name.replace("_", "-")  # noqa: PLW2901
            before |= await redis.config_get(name)
            await redis.config_set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                await redis.config_set(name, value)

    return setting


@pytest.fixture
def settings(settings_of, own_redis):
    return settings_of(REDIS_URL=own_redis.url)


def as_user(url, user):
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}"))


async def test_ours_has_nothing_but_no_limit(found, settings):
    codes = await found(settings, "redis", "results")
    assert set(codes) == {"ok", "redis-unbounded"}


async def test_one_that_cannot_be_used(found, settings_of, own_redis):
    wrong = as_user(own_redis.url, ":hidden-wrong")
    codes = await found(settings_of(REDIS_URL=wrong), "redis", "results")
    assert set(codes) == {"redis-unreachable", "not-checked"}
    assert "check user and password in REDIS_URL" in codes["redis-unreachable"][0].what
    assert "hidden-" not in str(codes)
    closed = f"redis://127.0.0.1:{free_ports(1)[0]}/0"
    assert "redis-unreachable" in await found(settings_of(REDIS_URL=closed), "redis")


async def test_eviction(found, settings, set_to):
    async with set_to(maxmemory_policy="allkeys-lru"):
        codes = await found(settings, "redis")
        assert codes["redis-would-evict"][0].what == "maxmemory-policy is allkeys-lru"
        async with set_to(maxmemory="100mb"):
            assert "redis-evicts" in await found(settings, "redis")


async def test_nearly_full(found, settings, set_to, redis):
    used = (await redis.info("memory"))["used_memory"]
    async with set_to(maxmemory=used):
        codes = await found(settings, "redis")
    assert "redis-nearly-full" in codes
    assert "redis-unbounded" not in codes


async def test_no_append_only_file(found, settings, set_to):
    async with set_to(appendonly="no"):
        assert "redis-not-durable" in await found(settings, "redis")


async def test_a_snapshot_that_failed(found, settings, set_to, redis, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    async with set_to(dir=str(gone)):
        shutil.rmtree(gone)
        await redis.bgsave()
        async with asyncio.timeout(60):
            while (await redis.info("persistence"))["rdb_last_bgsave_status"] != "err":
                await asyncio.sleep(0.05)
        codes = await found(settings, "redis")
    assert "rdb_last_bgsave_status is err" in codes["redis-write-fails"][0].what


async def test_a_user_who_may_ask_nothing(found, settings_of, own_redis, redis):
    await redis.execute_command("ACL SETUSER few on >words ~* +ping +get +set +select")
    settings = settings_of(REDIS_URL=as_user(own_redis.url, "few:words"))
    codes = await found(settings, "redis", "results")
    assert set(codes) == {"redis-not-inspectable", "results-not-listable"}


async def test_results_of_stock_taskiq_are_pickled(found, settings, own_redis, redis):
    result = TaskiqResult(is_err=False, return_value={"a": 1}, execution_time=0.1)
    await redis.set("ours", encode_result(result))
    await redis.set("bridge:payload:x", b"\x80\x04 any bytes")
    codes = await found(settings, "results")
    assert codes["ok"][0].what == "none of 1 values looked at is pickled"
    stock = RedisAsyncResultBackend(own_redis.url)
    await stock.set_result("theirs", result)
    await stock.shutdown()
    codes = await found(settings, "results")
    assert codes["pickled-results"][0].what == "1 of 2 values: theirs"
