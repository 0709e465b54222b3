"""Whether it works again: fresh submissions, past every broken link, until one succeeds."""

import asyncio
import contextlib
import time
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bridge.client import BridgeClient
from bridge.errors import BridgeError
from bridge.messages import decode_result
from bridgechaos.answers import read_answer, read_error
from bridgechaos.book import Book
from bridgechaos.entries import Entry, Want
from bridgechaos.mailer import Mailer
from bridgechaos.models import STEADY, Models, rows

_RECOVERED_S = 180.0
_EACH_S = 4.0
_LOOK_S = 0.05


class Probes:
    """Their submissions stand in the book like any other."""

    def __init__(
        self,
        book: Book,
        models: Models,
        mailer: Mailer,
        redis: Redis,
        caller: BridgeClient | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            book: of the run.
            models: that answer.
            mailer: straight to RabbitMQ.
            redis: straight to Redis.
            caller: a client that must succeed too, through its links; None: nobody.
        """
        self._book = book
        self._models = models
        self._mailer = mailer
        self._redis = redis
        self._caller = caller

    async def recovery_s(self) -> float | None:
        """Seconds until a probe that was sent after this call succeeded; None: none did in time."""
        if self._caller is None:
            return await self._straight_s()
        found = await asyncio.gather(self._straight_s(), self._called_s(self._caller))
        return None if None in found else max(filter(None, found))

    async def _called_s(self, caller: BridgeClient) -> float | None:
        """One call after the other: one that hangs holds up the next, as it does its caller."""
        begun = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RECOVERED_S):
                while not await self._call(caller):
                    await asyncio.sleep(_LOOK_S)
                return time.monotonic() - begun
        return None

    async def _call(self, caller: BridgeClient) -> bool:
        entry = self._book.open("probe", Want.SUCCESS)
        entry.asked = STEADY
        try:
            handle = await caller.submit(STEADY, {"x": rows(entry.serials)})
        except BridgeError as error:
            entry.why = f"{type(error).__name__}: {error}"[:200]
            return False
        entry.task_id = handle.task_id
        self._book.confirm(entry)
        try:
            entry.told = read_answer(self._models, entry, await handle.result())
        except BridgeError as error:
            entry.told = read_error(error)
        return not entry.told.error

    async def _straight_s(self) -> float | None:
        begun = time.monotonic()
        sent: list[Entry] = []
        while time.monotonic() - begun < _RECOVERED_S:
            entry = await self.submit(Want.SUCCESS)
            if entry.confirmed:
                sent.append(entry)
            until = time.monotonic() + _EACH_S
            while sent and time.monotonic() < until:
                if await self._one_succeeded(sent):
                    return time.monotonic() - begun
                await asyncio.sleep(_LOOK_S)
        return None

    async def submit(self, want: Want) -> Entry:
        """One submission."""
        entry = self._book.open("probe", want)
        if await self._mailer.send(entry, _EACH_S):
            self._book.confirm(entry)
        return entry

    async def poison(self) -> bool:
        """An input that kills its model; False: RabbitMQ did not come back to take it."""
        until = time.monotonic() + _RECOVERED_S
        while time.monotonic() < until:
            if (await self.submit(Want.CRASH)).confirmed:
                return True
        return False

    async def _one_succeeded(self, sent: list[Entry]) -> bool:
        try:
            values: list[Any] = await self._redis.mget([entry.task_id or "" for entry in sent])
        except (RedisError, OSError):
            return False
        results = [decode_result(value) for value in values if value is not None]
        if results and all(result.is_err for result in results) and len(results) == len(sent):
            sent.clear()  # another one must be tried
        return any(not result.is_err for result in results)
