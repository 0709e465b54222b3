"""Which tasks somebody has cancelled: a sorted set in Redis, and a channel that tells at once.

Enters: task ids from callers. Leaves: the ids, in the memory of each worker, so that no message
costs a round trip. A cancelled task's record is written by who cancels; workers only see to it
that nothing is computed any more.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError
from taskiq import TaskiqResult

from bridge.background import end
from bridge.channels import leave_replica, listen
from bridge.errors import TaskCancelledError, TooLateError
from bridge.jobs.scripts import CANCEL, keys_of
from bridge.messages import encode_result

_KEY, _CHANNEL = "bridge:cancelled", "bridge:cancel"
_NOW = " now"  # after a task's id, which has no spaces


def cancelled_record() -> bytes:
    """The record of a task that was cancelled, in JSON."""
    error = TaskCancelledError("the task was cancelled before it ended")
    return encode_result(
        TaskiqResult.model_construct(
            is_err=True, return_value=None, execution_time=0.0, labels={}, error=error
        )
    )


async def cancel(redis: Redis, task_id: str, keep_s: int, *, now: bool = False) -> bool:
    """Make a task's record "cancelled", unless it has one, and tell the workers.

    A training saves a checkpoint before it ends, unless it shall end now.

    Args:
        redis: where results are.
        task_id: checked by the caller.
        keep_s: for how long the record can be read, and the task must not run.
        now: also of a task that is cancelled already, and saves its checkpoint.

    Returns:
        False if the task has ended already.

    Raises:
        TooLateError: its model is being published.
    """
    record = cancelled_record()
    script: Any = redis.register_script(CANCEL)  # its types are of two minds
    try:
        answer = await script(keys=(keys_of(task_id)[0], task_id), args=(record, keep_s))
    except ResponseError as error:
        await leave_replica(redis, error)
        raise
    if answer == b"publishing":
        raise TooLateError(
            f"too late to cancel task {task_id}: its model is being published; wait for its result"
        )
    if answer == b"ended":
        if await redis.zscore(_KEY, task_id) is None:
            # Where Redis was lost between the two steps, workers have not been told.
            if await redis.get(task_id) != record:
                return False
        elif not now:
            return False
    async with redis.pipeline(transaction=True) as pipe:
        pipe.zadd(_KEY, {task_id: time.time()})
        pipe.zremrangebyscore(_KEY, 0, time.time() - keep_s)
        pipe.expire(_KEY, keep_s)
        pipe.publish(_CHANNEL, task_id + _NOW * now)
        await pipe.execute()
    return True


class Cancellations:
    """The ids, as a worker knows them: read once, then heard."""

    def __init__(self, redis: Redis, keep_s: int) -> None:
        """Nothing is read before `start`.

        Args:
            redis: where results are; not closed here.
            keep_s: for how long an id counts.
        """
        self.listeners: list[Callable[[str, bool], None]] = []
        """Called with each id that is heard of, and whether it shall end at once."""
        self._redis = redis
        self._keep_s = keep_s
        self._ids: dict[str, float] = {}
        self._listening: asyncio.Task[None] | None = None

    def __contains__(self, task_id: object) -> bool:
        at = self._ids.get(task_id) if isinstance(task_id, str) else None
        return at is not None and at > time.time() - self._keep_s

    def start(self) -> None:
        """Begin to listen, in the background."""
        if self._listening is None:
            self._listening = asyncio.create_task(
                listen(self._redis, _CHANNEL, self._told, self._read)
            )

    async def close(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            await end(self._listening)
            self._listening = None

    async def _read(self) -> None:
        known: Any = await self._redis.zrange(_KEY, 0, -1, withscores=True)
        for task_id, at in known:
            self._heard(task_id.decode(errors="replace"), at)

    async def _told(self, message: str) -> None:
        self._heard(message.removesuffix(_NOW), time.time(), now=message.endswith(_NOW))

    def _heard(self, task_id: str, at: float, *, now: bool = False) -> None:
        if at <= time.time() - self._keep_s or (task_id in self and not now):
            return
        if task_id not in self:
            self._ids.pop(task_id, None)  # of another time; to the end with it
            self._ids[task_id] = at
        for listener in self.listeners:
            listener(task_id, now)
        while self._ids:  # the oldest come first
            oldest = next(iter(self._ids))
            if self._ids[oldest] > time.time() - self._keep_s:
                break
            del self._ids[oldest]
