"""Training gives way to inference on the same GPU. Off unless the GPU has a name.

Enters: how long Triton takes for requests, from inference workers. Leaves: a key in Redis, by the
GPU's name, for as long as the target is missed; training workers save and wait while it is there.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from redis.asyncio import Redis

from bridge.channels import REDIS_LOST

_EVERY_S = 1.0
_WINDOW_S = 5.0
_FEWEST = 20  # fewer requests in the window say nothing
_SHARE = 0.95
_LASTS_S = 15  # longer than the window, so that training does not come and go with each burst

logger = logging.getLogger("bridge.courtesy")
P = ParamSpec("P")
R = TypeVar("R")


def _key(gpu: str) -> str:
    return f"bridge:busy:{gpu}"


class Watch:
    """How long requests take, as one inference worker sees it."""

    def __init__(self, redis: Redis, gpu: str, target_s: float) -> None:
        """Nothing is told before `run`.

        Args:
            redis: where results are; not closed here.
            gpu: its name, the same for all that share it.
            target_s: of twenty requests, nineteen shall take no longer.
        """
        self._redis, self._gpu, self._target_s = redis, gpu, target_s
        self._took: deque[tuple[float, float]] = deque()

    def timed(self, send: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """The same function, watched."""

        async def watched(*args: P.args, **kwargs: P.kwargs) -> R:
            started = time.monotonic()
            reply = await send(*args, **kwargs)
            now = time.monotonic()
            self._took.append((now, now - started))
            return reply

        return watched

    @property
    def missed(self) -> bool:
        """Whether the requests of the last five seconds took too long."""
        while self._took and self._took[0][0] < time.monotonic() - _WINDOW_S:
            self._took.popleft()
        if len(self._took) < _FEWEST:
            return False
        seconds = sorted(took for _, took in self._took)
        return seconds[int(len(seconds) * _SHARE)] > self._target_s

    async def run(self) -> None:
        """Tell, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            if not self.missed:
                continue
            try:
                if await self._redis.set(_key(self._gpu), "1", ex=_LASTS_S, nx=True):
                    logger.warning("inference on %s is too slow: training gives way", self._gpu)
                await self._redis.expire(_key(self._gpu), _LASTS_S)
            except REDIS_LOST as error:
                logger.info("nobody can be told that inference is too slow: %s", error)


async def is_busy(redis: Redis, gpu: str | None) -> bool:
    """Whether training on this GPU shall wait; not if nobody knows."""
    if gpu is None:
        return False
    try:
        return bool(await redis.exists(_key(gpu)))
    except REDIS_LOST:
        return False


async def until_busy(redis: Redis, gpu: str | None) -> None:
    """Return once training on this GPU shall give way; never without a GPU."""
    while not await is_busy(redis, gpu):  # noqa: ASYNC110 - it is a key in Redis
        await asyncio.sleep(_EVERY_S)
