"""Whether the server that everything needs is away. Pure asyncio; knows no protocol.

Enters: how to ask the server whether it is ready. Leaves: the end of the outage, told to all who
wait for it by one who asks.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from bridge.background import end

logger = logging.getLogger("bridge.outage")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0


class Outage:
    """Of one server, or of all replicas together."""

    def __init__(self, name: str, ready: Callable[[], Awaitable[bool]]) -> None:
        """There is none at the start.

        Args:
            name: of the server, for the log.
            ready: asks it; must not raise.
        """
        self.began_at: float | None = None
        """`time.monotonic()` when it was first seen; None: all is well."""
        self._name = name
        self._ready = ready
        self._asking: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[bool] | None = None

    @property
    def lasted_s(self) -> float:
        """For how many seconds it has been away; 0: it is not."""
        return 0.0 if self.began_at is None else time.monotonic() - self.began_at

    async def over(self, reason: str) -> None:
        """Report the server away, with the reason for the log, and wait until it is ready."""
        if self._asking is None or self._asking.done():
            self.began_at = time.monotonic()
            self._asking = asyncio.create_task(self._ask(reason))
        await asyncio.shield(self._asking)

    async def silent(self) -> bool:
        """Whether the server does not answer now; all who ask at a time share one question."""
        if self.began_at is not None:
            return True
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        return not await asyncio.shield(self._looking)

    async def close(self) -> None:
        """Stop asking."""
        await end(*filter(None, (self._asking, self._looking)))

    async def _look(self) -> bool:
        return await self._ready()

    async def _ask(self, reason: str) -> None:
        logger.warning("%s is away: nothing is consumed until it is back (%s)", self._name, reason)
        pause_s = _FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            if await self._ready():
                break
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        logger.warning("%s is back after %.1f s", self._name, self.lasted_s)
        self.began_at = None
