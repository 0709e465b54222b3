"""Waits for tasks' results: pushed over one Redis subscription, and read where a push was lost.

Enters: task ids, and what the workers push. Leaves: results, as bytes decoded by `messages`. Must
not know the queue or what a task does.
"""

import asyncio
import contextlib
import logging
import secrets
from typing import Any
from weakref import WeakValueDictionary

from redis.asyncio import Redis
from taskiq import TaskiqResult

from bridge.background import end
from bridge.channels import REDIS_LOST
from bridge.errors import MalformedMessageError
from bridge.messages import decode_result
from bridge.results import decode_push, reply_channel

logger = logging.getLogger("bridge.client")

_REREAD_S = 1.0  # a pushed result that was lost is found by then
_POLL_S = 0.05  # for tasks that somebody else submitted
_RECONNECT_S = 0.5
_SUBSCRIBE_S = 2.0


class Waiter:
    """Where the listener leaves what was pushed for one task."""

    __slots__ = ("__weakref__", "arrived", "value")

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.value: bytes | None = None


class Replies:
    """One subscription, however many tasks are waited for."""

    def __init__(self, redis: Redis) -> None:
        """Nothing is subscribed before `start`.

        Args:
            redis: where results are; not closed here.
        """
        self.token = secrets.token_urlsafe(16)
        """Of the channel on which results are heard: the label `reply_to`."""
        self._redis = redis
        # A handle keeps its waiter alive; with the handle, what was pushed for it goes too.
        self._waiters: WeakValueDictionary[str, Waiter] = WeakValueDictionary()
        self._listener: asyncio.Task[None] | None = None
        self._subscribed = asyncio.Event()

    async def start(self) -> None:
        """Subscribe. A Redis user without the right to channels is served by reads."""
        self._listener = asyncio.create_task(self._listen())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SUBSCRIBE_S):
                await self._subscribed.wait()

    async def close(self) -> None:
        """Stop listening."""
        if self._listener:
            await end(self._listener)

    def expect(self, task_id: str) -> Waiter:
        """Where the result of a task will be pushed; call it before the task is sent."""
        waiter = self._waiters[task_id] = Waiter()
        return waiter

    async def wait(self, task_id: str, waiter: Waiter | None = None) -> TaskiqResult[Any]:
        """Wait until the task has a result, and return all of it.

        Args:
            task_id: of any task.
            waiter: what `expect` gave, if the task was sent from here.
        """
        pause_s = _REREAD_S
        if waiter is None:
            waiter, pause_s = Waiter(), 0.0  # may have ended long ago: read at once
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await waiter.arrived.wait()
            value: Any = waiter.value or await self._read(task_id)
            if value is not None:
                return decode_result(value)
            waiter.arrived.clear()
            pause_s = pause_s or _POLL_S

    async def _read(self, task_id: str) -> bytes | None:
        try:
            value: Any = await self._redis.get(task_id)
        except REDIS_LOST:
            return None  # Redis is away: whoever waits goes on waiting, within the time it gave
        return value  # type: ignore[no-any-return] # redis-py types answers as str | bytes

    async def _listen(self) -> None:
        """Hand pushed results to their waiters; after each (re)connection let all look again."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=False) as pubsub:
                    await pubsub.subscribe(reply_channel(self.token))
                    async for message in pubsub.listen():
                        if message["type"] == "subscribe":
                            self._subscribed.set()
                            for waiter in list(self._waiters.values()):
                                waiter.arrived.set()
                        elif message["type"] == "message":
                            self._hand_over(message["data"])
            except REDIS_LOST as error:
                logger.warning("lost the connection for results, trying again: %s", error)
                await asyncio.sleep(_RECONNECT_S)

    def _hand_over(self, data: bytes) -> None:
        try:
            task_id, value = decode_push(data)
        except MalformedMessageError as error:
            logger.warning("ignored a pushed message: %s", error)
            return
        waiter = self._waiters.get(task_id)
        if waiter is not None:
            waiter.value = value
            waiter.arrived.set()
