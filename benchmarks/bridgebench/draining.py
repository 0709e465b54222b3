"""One drain: messages lie in the queue, a worker starts, and the time runs from result to result.

When a result was written is read from what is left of its time to live, by Redis's own clock, so
that nothing is asked while the worker runs but, now and then, how many there are. The first 5 %
are left out: connecting, first imports, the first look at the model.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil
from redis.asyncio import Redis

from bridge.embedded.server import Server
from bridgebench.ground import Ground
from bridgebench.posting import Mail
from bridgebench.processes import cpu_s

_WARM_UP = 0.05
_LOOK_EVERY_S = 0.02
_LIMIT_S = 180.0
_LAST_ACKNOWLEDGEMENTS_S = 0.2
_TTLS_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class Drain:
    """How fast, and at what cost."""

    tasks: int
    per_s: float
    cpu_us: Mapping[str, float]
    """CPU microseconds for each task: of the worker with its children, and of each server."""
    left: int
    """Messages that were not acknowledged; they would be delivered again."""


@dataclass(frozen=True, slots=True)
class _Look:
    done: int
    cpu: Mapping[str, float]


class Watch:
    """Watches one worker drain what was preloaded."""

    def __init__(self, ground: Ground, redis: Redis, mails: Sequence[Mail]) -> None:
        self._servers = ground.parts
        self._redis = redis
        self._keys = [mail.key for mail in mails]

    async def run(self, worker: Server) -> tuple[float, Mapping[str, float]]:
        """Start the worker, and return tasks a second and CPU microseconds for each task.

        Raises:
            TimeoutError: not all results were there in time.
        """
        starting = asyncio.ensure_future(worker.start())
        try:
            first, last = await self._look_on(worker, starting)
            await starting
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
        counted = max(last.done - first.done, 1)
        cpu = {name: (last.cpu[name] - first.cpu[name]) / counted * 1e6 for name in last.cpu}
        return await self._rate(), cpu

    async def _look_on(self, worker: Server, starting: asyncio.Future[None]) -> tuple[_Look, _Look]:
        first: _Look | None = None
        begun = time.monotonic()
        while True:
            if starting.done():
                starting.result()  # raises what kept it from starting
                if not worker.process.running:
                    tail = worker.process.described_tail()
                    raise RuntimeError(f"{worker.room.name} ended.{tail}")
            done = int(await self._redis.dbsize())
            if first is None and done >= math.ceil(len(self._keys) * _WARM_UP) and worker.pid:
                first = self._take(worker, done)
            if first is not None and done >= len(self._keys):
                last = self._take(worker, done)
                if await self._redis.exists(*self._keys) == len(self._keys):
                    return first, last
            if time.monotonic() - begun > _LIMIT_S:
                raise TimeoutError(
                    f"{worker.room.name}: {done} of {len(self._keys)} results after "
                    f"{_LIMIT_S:g} s.{worker.process.described_tail()}"
                )
            await asyncio.sleep(_LOOK_EVERY_S)

    def _take(self, worker: Server, done: int) -> _Look:
        parts = {"worker": psutil.Process(worker.pid), **self._servers}
        return _Look(done, {name: cpu_s(process) for name, process in parts.items()})

    async def _rate(self) -> float:
        """Results a second, from the one that ended the warm-up to the last."""
        written: list[float] = []
        for start in range(0, len(self._keys), _TTLS_AT_A_TIME):
            pipe = self._redis.pipeline(transaction=False)
            pipe.time()
            for key in self._keys[start : start + _TTLS_AT_A_TIME]:
                pipe.pttl(key)
            (seconds, micros), *left_ms = await pipe.execute()
            written += [seconds + micros / 1e6 + ms / 1e3 for ms in left_ms]
        written.sort()
        begin = written[int(len(written) * _WARM_UP)]
        after = sum(moment > begin for moment in written)
        return after / (written[-1] - begin) if after else math.nan


async def settle() -> None:
    """Give a worker the time to write its last acknowledgements."""
    await asyncio.sleep(_LAST_ACKNOWLEDGEMENTS_S)
