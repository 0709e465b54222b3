"""Send dead letters to where they came from, without ever losing one.

Enters: the letters of one queue, which of them are meant, what Redis knows of their tasks. Leaves:
what became of each. For each letter: the error that its caller was told is forgotten, a copy is
published and confirmed, and only then the letter is taken away. Ended anywhere in between, it lies
there still; ended before the last, there are two.
"""

import asyncio
import contextlib
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from bridge.background import cancel_once
from bridge.errors import MalformedMessageError
from bridge.messages import decode_result
from bridge.queues.letters import Letter, Letters, Opened, Selection, chosen
from bridge.queues.reach import using_redis
from bridge.results import RedisResults
from bridge.settings import Settings

_TOGETHER = 64
_BYTES_TOGETHER = 32 * 2**20
_LARGEST_ERROR = 2**20
"""Bytes; what is larger is an answer, and need not be read."""
_FORGET = """
if redis.call('getrange', KEYS[1], 0, ARGV[2]) ~= ARGV[1] then return 0 end
return redis.call('del', KEYS[1])
"""


class Outcome(StrEnum):
    """What became of a letter."""

    REPLAYED = "replayed"
    KEPT = "kept"
    """It was left alone, as its task has a result."""
    FAILED = "failed"


Report = Callable[[Letter, Outcome, str], None]


class Records:
    """What Redis holds as the results of dead-lettered tasks."""

    def __init__(self, settings: Settings) -> None:
        self._where = settings.redis_shown
        self._results = RedisResults(settings)
        self._redis: Redis = Redis.from_url(settings.redis_connect_url)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
        await self._results.shutdown()

    async def in_the_way(self, task_id: str | None, *, forget: bool, answers: bool) -> bool:
        """Whether a task has a result that would stay, and be read instead of the next one.

        Args:
            task_id: None, or one that no result can have: nothing is in the way.
            forget: delete an error, so that the next result can be waited for.
            answers: a result that is no error is treated as one.

        Raises:
            QueueError: Redis cannot be used.
        """
        if task_id is None or self._results.refuses(task_id):
            return False
        with using_redis(self._where):
            try:
                while True:
                    found = await self._redis.getrange(task_id, 0, _LARGEST_ERROR)
                    if not found:
                        return False
                    if not answers and not _is_error(found):
                        return True
                    if not forget or await self._redis.eval(
                        _FORGET, 1, task_id, found, str(_LARGEST_ERROR)
                    ):
                        return False
                    # Another result was written meanwhile: look again.
            except ResponseError:
                return True  # not a string: whose it is nobody knows


class Replay:
    """Replays letters, some together."""

    def __init__(
        self, records: Records, report: Report, *, force: bool = False, dry_run: bool = False
    ) -> None:
        """Nothing happens yet.

        Args:
            records: results of the letters' tasks.
            report: called with what became of each letter, and why.
            force: also those whose task has a result: it is deleted, as the first one stays.
            dry_run: only report.
        """
        self._records = records
        self._report = report
        self._force = force
        self._dry_run = dry_run
        self._bytes = 0

    async def run(self, letters: Letters, selection: Selection, limit: int | None = None) -> int:
        """Replay those that are meant, in about their order.

        Args:
            letters: of one queue.
            selection: which.
            limit: how many at most.

        Returns:
            How many were meant.

        Raises:
            QueueError: RabbitMQ or Redis cannot be used (any more).
        """
        meant = 0
        running: set[asyncio.Task[None]] = set()
        try:
            async with contextlib.aclosing(chosen(letters, selection, limit)) as found:
                async for opened in found:
                    meant += 1
                    while len(running) >= _TOGETHER or self._bytes > _BYTES_TOGETHER:
                        running = await _some_ended(running)
                    self._bytes += len(opened.body)
                    running.add(asyncio.create_task(self._one(letters, opened)))
            while running:
                running = await _some_ended(running)
        finally:
            await cancel_once(*running)
        return meant

    async def _one(self, letters: Letters, opened: Opened) -> None:
        letter = opened.letter
        try:
            answered = await self._records.in_the_way(
                letter.task_id, forget=not self._dry_run, answers=self._force
            )
            if answered:
                self._report(letter, Outcome.KEPT, "already has a result")
                return
            problem = None if self._dry_run else await letters.replay(opened)
            if problem is None:
                self._report(letter, Outcome.REPLAYED, "")
            else:
                self._report(letter, Outcome.FAILED, problem)
        finally:
            self._bytes -= len(opened.body)


async def _some_ended(running: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Wait for some, raise what they raised; return those that still run."""
    done, left = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return left


def _is_error(value: Any) -> bool:
    try:
        return decode_result(value).is_err
    except MalformedMessageError:
        return False
