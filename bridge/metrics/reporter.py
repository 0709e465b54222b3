"""Writes what was counted and, once a second, how this process stands; asks what waits.

Enters: counts, and what to ask. Leaves: the process's gauges. Of all processes of a pool only the
one that is scraped asks: the queue is the same for all.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from bridge.background import end
from bridge.metrics import gauges
from bridge.metrics.counts import Counts, Standing

Look = Callable[[], Iterable[Standing]]
Ask = Callable[[], Awaitable[Iterable[Standing]]]

_EVERY_S = 1.0
_WRITE_EVERY_S = 0.25
_ASK_EVERY_S = 5.0
_ASK_S = 5.0
WAITING = "bridge_waiting_messages"

logger = logging.getLogger("bridge.metrics")


class Reporter:
    """Of one process."""

    def __init__(
        self,
        counts: Counts,
        looks: Iterable[Look],
        asks: Iterable[Ask],
        *,
        asking: Callable[[], bool],
        in_seconds: bool,
    ) -> None:
        """Nothing is said before `running`.

        Args:
            counts: what was heard.
            looks: give gauges of this process at once.
            asks: give gauges of the pool, from its servers; one gives `WAITING`.
            asking: whether this process is the one that asks.
            in_seconds: what waits is also told in seconds of work.
        """
        self._counts = counts
        self._looks, self._asks, self._asking = list(looks), list(asks), asking
        self._in_seconds = in_seconds
        self._answers: list[Standing] = []
        self._asked = -_ASK_EVERY_S

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Report as long as the block lasts; then no gauge of this process is left."""
        tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._write())]
        try:
            yield
        finally:
            await end(*tasks)
            self._counts.write()
            gauges.withdraw()

    async def _run(self) -> None:
        while True:
            try:
                await self._report()
            except Exception:
                logger.exception("no gauges for now")
            await asyncio.sleep(_EVERY_S)

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_EVERY_S)
            try:
                self._counts.write()
            except Exception:
                logger.exception("counts are lost")

    async def _report(self) -> None:
        if not self._asking():
            self._answers = []
        elif time.monotonic() > self._asked + _ASK_EVERY_S:
            answers = await asyncio.gather(*map(_answer, self._asks))
            self._answers = [it for answer in answers for it in answer]
            self._asked = time.monotonic()
        standing = [*self._counts.standing(), *self._answers]
        standing += [it for look in self._looks for it in look()]
        found = [int(value) for name, _, value in self._answers if name == WAITING]
        waiting = found[0] if found and self._in_seconds else None
        gauges.write(standing, self._counts, waiting)


async def _answer(ask: Ask) -> Iterable[Standing]:
    """What cannot be asked now has no gauge: better than an old one."""
    try:
        async with asyncio.timeout(_ASK_S):
            return await ask()
    except Exception as error:  # noqa: BLE001 - whatever a lost connection raises
        logger.info("could not ask for gauges: %r", error)
        return []
