"""Training gives way to inference on the same GPU: the signal, on a real Redis."""

import asyncio
import uuid

import pytest
from redis.asyncio import Redis

from bridge import courtesy
from bridge.courtesy import Watch, is_busy, until_busy


async def slow(seconds):
    await asyncio.sleep(seconds)
    return seconds


async def test_slow_requests_are_told_and_fast_or_few_ones_are_not(redis, monkeypatch):
    monkeypatch.setattr(courtesy, "_EVERY_S", 0.05)
    gpu = uuid.uuid4().hex
    watch = Watch(redis, gpu, target_s=0.1)
    send = watch.timed(slow)
    running = asyncio.create_task(watch.run())
    assert await send(0.0) == 0.0
    await asyncio.gather(*(send(0.15) for _ in range(18)))
    assert not watch.missed  # 19 requests are too few
    await asyncio.gather(*(send(0.0) for _ in range(500)))
    assert not watch.missed  # 18 slow ones of 519 are fewer than one in twenty
    assert not await is_busy(redis, gpu)
    await asyncio.gather(*(send(0.15) for _ in range(40)))
    assert watch.missed
    await asyncio.wait_for(until_busy(redis, gpu), 5)
    assert 10 < await redis.ttl(f"bridge:busy:{gpu}") <= 15
    assert not await is_busy(redis, "another")
    assert not await is_busy(redis, None)
    running.cancel()


async def test_failed_requests_and_a_missing_redis_change_nothing(monkeypatch):
    monkeypatch.setattr(courtesy, "_EVERY_S", 0.01)
    async with Redis.from_url("redis://127.0.0.1:1/0") as redis:
        watch = Watch(redis, "gpu", target_s=1e-9)

        async def failing():
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await watch.timed(failing)()
        await asyncio.gather(*(watch.timed(slow)(0.0) for _ in range(30)))
        assert watch.missed
        running = asyncio.create_task(watch.run())
        await asyncio.sleep(0.2)
        assert not running.done()
        running.cancel()
        assert not await is_busy(redis, "gpu")
