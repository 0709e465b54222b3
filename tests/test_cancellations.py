"""Cancelling: a record, and word of it to the workers; both or, if Redis is lost between, later."""

import asyncio
import time
import uuid

from bridge.cancellations import Cancellations, cancel, cancelled_record


async def heard(redis, task_id):
    return await redis.zscore("bridge:cancelled", task_id) is not None


async def test_what_was_half_cancelled_can_be_cancelled_again(redis):
    task_id = uuid.uuid4().hex
    await redis.set(task_id, cancelled_record())  # and then Redis was lost
    assert await cancel(redis, task_id, 60)
    assert await heard(redis, task_id)
    assert not await cancel(redis, task_id, 60)
    assert await cancel(redis, task_id, 60, now=True)


async def test_what_has_ended_is_not_cancelled(redis):
    task_id = uuid.uuid4().hex
    await redis.set(task_id, b"another end")
    assert not await cancel(redis, task_id, 60)
    assert not await cancel(redis, task_id, 60, now=True)
    assert not await heard(redis, task_id)
    assert await redis.get(task_id) == b"another end"


async def test_an_id_may_be_used_again_when_its_cancellation_is_of_long_ago(redis):
    task_id, keep_s = uuid.uuid4().hex, 2
    await redis.delete("bridge:cancelled")
    known = Cancellations(redis, keep_s)
    known.start()
    for _ in range(2):
        assert await cancel(redis, task_id, keep_s)
        began = time.monotonic()
        async with asyncio.timeout(10):
            while task_id not in known:
                await asyncio.sleep(0.02)
            while task_id in known:
                await asyncio.sleep(0.02)
        assert time.monotonic() - began > keep_s / 2
    await known.close()


async def test_a_cancellation_of_long_ago_stops_nobody(redis):
    """The set keeps it until somebody cancels something again."""
    task_id, told = uuid.uuid4().hex, []
    fresh = uuid.uuid4().hex
    await redis.zadd("bridge:cancelled", {task_id: time.time() - 61, fresh: time.time()})
    known = Cancellations(redis, 60)
    known.listeners.append(lambda name, now: told.append(name))
    known.start()
    async with asyncio.timeout(10):
        while fresh not in told:
            await asyncio.sleep(0.02)
    await known.close()
    await redis.zrem("bridge:cancelled", task_id, fresh)
    assert task_id not in told
