"""Cancelling: a record, and word of it to the workers; both or, if Redis is lost between, later."""

import uuid

from bridge.cancellations import cancel, cancelled_record


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
