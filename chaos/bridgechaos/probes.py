"""Whether it works again: fresh submissions, past every broken link, until one succeeds."""

import asyncio
import time
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bridge.messages import decode_result
from bridgechaos.book import Book
from bridgechaos.ledger import Entry, Want
from bridgechaos.mailer import Mailer

_RECOVERED_S = 180.0
_EACH_S = 4.0
_LOOK_S = 0.05


class Probes:
    """Their submissions stand in the book like any other."""

    def __init__(self, book: Book, mailer: Mailer, redis: Redis) -> None:
        """Nothing is sent yet.

        Args:
            book: of the run.
            mailer: straight to RabbitMQ.
            redis: straight to Redis.
        """
        self._book = book
        self._mailer = mailer
        self._redis = redis

    async def recovery_s(self) -> float | None:
        """Seconds until a probe that was sent after this call succeeded; None: none did in time."""
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

    async def poison(self) -> None:
        """An input that kills its model, submitted for sure if RabbitMQ comes back."""
        until = time.monotonic() + _RECOVERED_S
        while not (await self.submit(Want.CRASH)).confirmed and time.monotonic() < until:
            pass

    async def _one_succeeded(self, sent: list[Entry]) -> bool:
        try:
            values: list[Any] = await self._redis.mget([entry.task_id or "" for entry in sent])
        except (RedisError, OSError):
            return False
        results = [decode_result(value) for value in values if value is not None]
        if results and all(result.is_err for result in results) and len(results) == len(sent):
            sent.clear()  # another one must be tried
        return any(not result.is_err for result in results)
