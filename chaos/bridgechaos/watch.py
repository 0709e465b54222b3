"""Looks on while a run goes: standstill, memory, what is done so far.

Asks Redis for one number and the kernel for a few, several times a second.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from redis.exceptions import RedisError

from bridgechaos.book import Book
from bridgechaos.stack import Stack

_LOOK_S = 0.1
_MEMORY_EVERY_S = 1.0
_SAY_EVERY_S = 5.0
_WARM_S = 5.0
_ZOMBIES_S = 8.0


@dataclass(slots=True)
class _Memory:
    """Of one worker process, in bytes."""

    since: float
    early: int = 0
    late: int = 0


class Watch:
    """One run's."""

    def __init__(self, stack: Stack, book: Book, say: Callable[[str], None]) -> None:
        """Nothing is looked at before `run`."""
        self.broken: dict[int, str] = {}
        """Faults that are there now, by number."""
        self.stall_s = 0.0
        """The longest time without a result while every part was up and something was due."""
        self._stack = stack
        self._book = book
        self._say = say
        self._memory: dict[int, _Memory] = {}
        self._done = 0

    @property
    def growth_mb(self) -> float:
        """The most that a worker process grew after its first seconds, in MB."""
        grown = [memory.late - memory.early for memory in self._memory.values() if memory.early]
        return max(grown, default=0) / 1e6

    async def run(self) -> None:
        """Look until cancelled."""
        moved = measured = said = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            done = await self._results()
            idle = self._book.confirmed <= (done or 0)
            if done is None or done != self._done or self.broken or idle or self._starting:
                moved = now
            self._done = self._done if done is None else done
            self.stall_s = max(self.stall_s, now - moved)
            if now - measured > _MEMORY_EVERY_S:
                measured = now
                self._measure(now)
            if now - said > _SAY_EVERY_S:
                said = now
                self._tell()

    @property
    def _starting(self) -> bool:
        return any(part.lock.locked() for part in self._stack.parts.values())

    async def _results(self) -> int | None:
        try:
            return int(await self._stack.redis.dbsize())
        except (RedisError, OSError):
            return None

    def _measure(self, now: float) -> None:
        for pool in self._stack.pools.values():
            for child in pool.children:
                memory = self._memory.setdefault(child.pid, _Memory(now))
                try:
                    resident = child.memory_info().rss
                except psutil.Error:
                    continue
                memory.late = resident
                if not memory.early and now - memory.since > _WARM_S:
                    memory.early = resident

    def _tell(self) -> None:
        now = ", ".join(self.broken.values()) or "nothing"
        self._say(
            f"  {len(self._book.entries)} submitted, {self._book.confirmed} confirmed, "
            f"{self._done} done; broken now: {now}"
        )


async def zombies(stack: Stack) -> list[str]:
    """Processes of ours that ended and were not waited for; a short time for that is given."""
    until = time.monotonic() + _ZOMBIES_S
    while True:
        found = [text for process in stack.processes() if (text := _zombie(process))]
        if not found or time.monotonic() > until:
            return found
        await asyncio.sleep(_LOOK_S)


def _zombie(process: psutil.Process) -> str:
    try:
        # Triton never waits for a model's process that was killed, whatever we do.
        tritons = process.name().startswith("triton_python_b")
        dead = process.status() == psutil.STATUS_ZOMBIE and not tritons
        return f"{process.pid} ({process.name()}), child of {process.ppid()}" if dead else ""
    except psutil.Error:
        return ""
