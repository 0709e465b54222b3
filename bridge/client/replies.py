"""Waits for tasks' results: pushed over one Redis subscription, and read where a push was lost.

Enters: task ids, and what the workers push. Leaves: results, as bytes decoded by `messages`. Must
not know the queue or what a task does.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Iterable
from itertools import islice
from typing import Any
from weakref import WeakValueDictionary

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError
from taskiq import TaskiqResult

from bridge.background import end
from bridge.channels import REDIS_LOST
from bridge.errors import MalformedMessageError
from bridge.messages import decode_result
from bridge.results import decode_push, reply_channel

logger = logging.getLogger("bridge.client")

_REREAD_S = 1.0  # a pushed result that was lost is found by then
_POLL_S = 0.05  # for tasks that somebody else submitted; grows to the above
_POLL_GROWTH = 1.5
_TOGETHER = 256
_SILENT_S = 2.0  # without an answer: somebody who waits is told
_RECONNECT_S = 0.5
_SUBSCRIBE_S = 2.0
_QUIET_S = 10.0  # then Redis is asked whether it is still there


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
        # All reads go over one connection: redis-py's pool has a hundred, and refuses the next.
        self._asked: dict[str, asyncio.Future[bytes | None]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._reading_since: float | None = None
        self._failure: Exception | None = None

    async def start(self) -> None:
        """Subscribe. A Redis user without the right to channels is served by reads."""
        self._listener = asyncio.create_task(self._listen())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SUBSCRIBE_S):
                await self._subscribed.wait()

    async def close(self) -> None:
        """Stop listening and reading."""
        await end(*(task for task in (self._listener, self._reader) if task))
        while self._asked:
            self._asked.popitem()[1].set_result(None)

    @property
    def trouble(self) -> Exception | None:
        """Why results could not be read the last time; None: they could, or nobody asked."""
        since = self._reading_since
        if since is not None and (silent_s := time.monotonic() - since) > _SILENT_S:
            return TimeoutError(f"no answer for {silent_s:.0f} s")
        return self._failure

    def expect(self, task_id: str) -> Waiter:
        """Where the result of a task will be pushed; call it before the task is sent."""
        waiter = self._waiters[task_id] = Waiter()
        return waiter

    async def wait(
        self, task_id: str, waiter: Waiter | None = None, *, once: bool = False
    ) -> TaskiqResult[Any]:
        """Wait until the task has a result, and return all of it.

        Args:
            task_id: of any task.
            waiter: what `expect` gave, if the task was sent from here.
            once: only look whether it has one.

        Raises:
            TimeoutError: it has none, and was to be looked for once.
        """
        pause_s = _REREAD_S
        if waiter is None or once:
            pause_s = 0.0  # may have ended long ago: read at once
        waiter = waiter or Waiter()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await waiter.arrived.wait()
            waiter.arrived.clear()  # what comes while we read is looked at next
            value = waiter.value or await self._read(task_id)
            if value is not None:
                waiter.arrived.set()  # who asks again need not wait
                return decode_result(value)
            if once:
                raise TimeoutError
            pause_s = min(max(pause_s * _POLL_GROWTH, _POLL_S), _REREAD_S)

    async def _read(self, task_id: str) -> bytes | None:
        asked = self._asked.get(task_id)
        if asked is None:
            asked = self._asked[task_id] = asyncio.get_running_loop().create_future()
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read_all())
        return await asyncio.shield(asked)

    async def _read_all(self) -> None:
        """Read what is asked for; what is asked meanwhile goes with the next round trip."""
        while self._asked:
            batch = {it: self._asked.pop(it) for it in list(islice(self._asked, _TOGETHER))}
            values: list[Any] = [None] * len(batch)
            self._reading_since = time.monotonic()
            try:
                values = await self._values(batch)
            finally:
                self._reading_since = None
                for asked, value in zip(batch.values(), values, strict=True):
                    if not asked.done():
                        asked.set_result(value if isinstance(value, bytes) else None)

    async def _values(self, task_ids: Iterable[str]) -> list[Any]:
        """For each id its value, or an error: whoever waits goes on, within the time it gave."""
        pipe = self._redis.pipeline(transaction=False)
        for task_id in task_ids:
            pipe.get(task_id)
        try:
            values: list[Any] = await pipe.execute(raise_on_error=False)
        except REDIS_LOST as error:
            values = [error for _ in task_ids]
        failures = [value for value in values if isinstance(value, Exception)]
        self._failure = failures[0] if len(failures) == len(values) else None
        return values

    async def _listen(self) -> None:
        """Hand pushed results to their waiters; after each (re)connection let all look again."""
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=False) as pubsub:
                    await pubsub.subscribe(reply_channel(self.token))
                    asked = False
                    while True:
                        message = await pubsub.get_message(timeout=_QUIET_S)
                        if message is not None:
                            asked = False
                            self._heard(message)
                        elif asked:
                            raise RedisConnectionError("it has fallen silent")
                        else:
                            asked = True
                            await pubsub.ping()
            except NoPermissionError:
                logger.warning(
                    "this Redis user may not subscribe: results are read about once a second"
                )
                self._subscribed.set()
                return
            except REDIS_LOST as error:
                logger.warning("lost the connection for results, trying again: %s", error)
                await asyncio.sleep(_RECONNECT_S)

    def _heard(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._subscribed.set()
            for waiter in list(self._waiters.values()):
                waiter.arrived.set()
        elif message["type"] == "message":
            self._hand_over(message["data"])

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
