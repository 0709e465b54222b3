"""How each kind of fault is done. Each returns when its part is back, whatever happened.

Enters: a planned fault, a running stack. Leaves: whether there was anything to hit.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from bridgechaos.disk import filled
from bridgechaos.kinds import SERVERS
from bridgechaos.plan import Fault
from bridgechaos.servers import Pool
from bridgechaos.stack import Part, Stack
from bridgechaos.students import hang, strike

Poison = Callable[[], Awaitable[bool]]
Act = Callable[["Scene", Fault], Awaitable[bool]]
"""Returns whether there was anything to hit."""

_NEW_CHILD_S = 120.0
_DELAYS_S = (0.02, 0.3)
_HALF_OPEN_LONGER = 3.0  # a kernel is patient: what waits for it to tell must be seen waiting
_POLL_S = 0.1
_TAKES_S = 20.0


class NotBackError(Exception):
    """A part did not come back by itself, as it has to."""


class Scene:
    """What faults work on."""

    def __init__(self, stack: Stack, poison: Poison) -> None:
        """Nothing breaks yet.

        Args:
            stack: running.
            poison: submits an input that crashes its model.
        """
        self.stack = stack
        self.poison = poison
        self.models = asyncio.Lock()
        self.checkpoints = asyncio.Lock()

    async def inject(self, fault: Fault) -> bool:
        """Break, wait, and see to it that the part is back; False: there was nothing to hit.

        Raises:
            NotBackError: it did not come back by itself.
        """
        return await _ACTS[fault.kind](self, fault)

    @asynccontextmanager
    async def holding(self, fault: Fault) -> AsyncIterator[Part]:
        """The part that it befalls, running, and nobody else's until the block ends."""
        part = self.stack.parts[fault.target]
        async with part.lock:
            if not part.server.process.running:
                await part.revive()
            try:
                yield part
            finally:
                if not part.server.process.running:
                    await part.revive()


def _end_main(number: signal.Signals) -> Act:
    """The main process gets a signal; after a while it is started again."""

    async def act(scene: Scene, fault: Fault) -> bool:
        async with scene.holding(fault) as part:
            hit = _signal(part.server.pid, number)
            if number is signal.SIGTERM:
                await _ended(part)
            await asyncio.sleep(fault.lasts_s)
            await part.revive()
        return hit

    return act


async def _ended(part: Part) -> None:
    """As a supervisor would: as long as it may take, and no longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(part.server.stop_timeout_s):
            await part.server.process.wait()


def _end_child(number: signal.Signals) -> Act:
    """A pool's worker process gets a signal; the pool itself starts another."""

    async def act(scene: Scene, fault: Fault) -> bool:
        async with scene.holding(fault) as part:
            pool = _pool(part)
            before, pids = pool.starts, [child.pid for child in pool.children]
            pool.killed.update(pids)
            hit = [pid for pid in pids if _signal(pid, number)]
            until = time.monotonic() + _NEW_CHILD_S
            while hit and pool.starts <= before:
                if not pool.process.running:
                    raise NotBackError("the pool ended with its worker process")
                if time.monotonic() > until:
                    raise NotBackError(f"no new worker process within {_NEW_CHILD_S:.0f} s")
                await asyncio.sleep(_POLL_S)
        return bool(hit)

    return act


async def _pause(scene: Scene, fault: Fault) -> bool:
    """SIGSTOP, and SIGCONT after a while: of a server's main process, or a pool's workers."""
    async with scene.holding(fault) as part:
        server = part.server
        pids = [child.pid for child in server.children] if isinstance(server, Pool) else []
        pids = pids or [server.process.pid or 0]
        hit = [pid for pid in pids if _signal(pid, signal.SIGSTOP)]
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            for pid in hit:
                _signal(pid, signal.SIGCONT)
    return bool(hit)


async def _break_link(scene: Scene, fault: Fault) -> bool:
    """What is wrong with it is in the kind's name; it hits those who are connected, or come."""
    link = scene.stack.links[fault.target]
    least, most = _DELAYS_S
    async with scene.stack.link_locks[fault.target]:
        broken = {
            "cut": link.cut,
            "delayed": lambda: link.delayed(least + fault.severity * (most - least)),
            "blackholed": link.blackholed,
            "half-open": link.half_open,
        }[fault.kind]
        longer = _HALF_OPEN_LONGER if fault.kind == "half-open" else 1.0
        hit, came = link.connections, link.accepted
        async with broken():
            await asyncio.sleep(fault.lasts_s * longer)
            if fault.kind != "half-open":  # new connections work then
                hit += link.accepted - came
    return hit > 0


async def _fill_redis(scene: Scene, fault: Fault) -> bool:
    """No write fits, until there is room again."""
    async with scene.holding(fault):
        await _allow(scene.stack.redis, "1")
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            await _allow(scene.stack.redis, "0")
    return True


async def _allow(redis: Redis, maxmemory: str) -> None:
    """Until Redis takes it: our connection may be one that ended with the last Redis."""
    async with asyncio.timeout(_TAKES_S):
        while True:
            with contextlib.suppress(RedisError):
                await redis.config_set("maxmemory", maxmemory)
                return
            await asyncio.sleep(_POLL_S)


async def _slow_model(scene: Scene, fault: Fault) -> bool:
    """Each request takes a fifth of a second."""
    async with scene.models:
        slow = scene.stack.models.slow_file
        slow.touch()
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            slow.unlink()
    return True


async def _crash_model(scene: Scene, fault: Fault) -> bool:
    """Somebody sends an input that kills the model's process, among everybody else's.

    Triton does not start that process again: as with a liveness probe, Triton is restarted then.
    """
    async with scene.models:
        hit = await scene.poison()
        await asyncio.sleep(fault.lasts_s)
        while scene.stack.sick_since is not None:
            if scene.stack.helpers_ended:
                raise RuntimeError("the model is dead, and nobody restarts Triton")
            await asyncio.sleep(_POLL_S)
    return hit


async def _fill_disk(scene: Scene, fault: Fault) -> bool:
    """Nothing can be written to the model repository."""
    async with scene.models, filled(scene.stack.models.repository):
        await asyncio.sleep(fault.lasts_s)
    return True


async def _fill_checkpoints(scene: Scene, fault: Fault) -> bool:
    """Nothing can be written where trainings are saved."""
    school = scene.stack.school
    if school is None:
        return False
    async with scene.checkpoints, filled(school.checkpoints):
        await asyncio.sleep(fault.lasts_s)
    return True


def _strike(number: signal.Signals) -> Act:
    """A training process gets a signal, and its worker does not."""

    async def act(scene: Scene, fault: Fault) -> bool:
        async with scene.holding(fault) as part:
            return await strike(scene.stack, _pool(part), fault, number)

    return act


async def _hang(scene: Scene, fault: Fault) -> bool:
    async with scene.holding(fault) as part:
        return await hang(scene.stack, _pool(part), fault)


def _pool(part: Part) -> Pool:
    if not isinstance(part.server, Pool):
        raise TypeError(f"{part.name} is no pool")
    return part.server


def _signal(pid: int | None, number: signal.Signals) -> bool:
    """Whether there was such a process."""
    # Only of our own children, whose ids cannot be reused before they are waited for, and of
    # theirs: a process that has gone meanwhile is what was wanted.
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        if pid:
            os.kill(pid, number)
            return True
    return False


_ACTS: Mapping[str, Act] = {
    **dict.fromkeys(("worker killed", "training killed"), _end_child(signal.SIGKILL)),
    **dict.fromkeys(("worker terminated", "training terminated"), _end_child(signal.SIGTERM)),
    **{f"{name} killed": _end_main(signal.SIGKILL) for name in (*SERVERS, "pool", "training pool")},
    **{f"{name} terminated": _end_main(signal.SIGTERM) for name in ("rabbitmq", "redis", "pool")},
    "paused": _pause,
    **dict.fromkeys(("cut", "delayed", "blackholed", "half-open"), _break_link),
    "redis full": _fill_redis,
    "slow model": _slow_model,
    "crashing model": _crash_model,
    "disk full": _fill_disk,
    "checkpoint disk full": _fill_checkpoints,
    "training pool terminated": _end_main(signal.SIGTERM),
    "training process killed": _strike(signal.SIGKILL),
    "training process paused": _strike(signal.SIGSTOP),
    "training paused past its lease": _hang,
}
