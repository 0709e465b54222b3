"""Training processes: who they are, and what befalls them and their workers.

Each act returns when all is running again that it stopped: whether it hit anybody.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import psutil

from bridge.embedded.leftovers import find_processes
from bridge.training.child import BUSY
from bridgechaos.lessons import LEASE_S, SLICE_S
from bridgechaos.plan import Fault
from bridgechaos.servers import Pool
from bridgechaos.stack import Stack

_POLL_S = 0.1
_COMES_S = 20.0
_TOO_LONG = 2.5  # times the lease
_TOGETHER = 0.5


def students(stack: Stack, of: int | None = None) -> list[psutil.Process]:
    """Training processes, whoever is left to look after them.

    Args:
        stack: whose.
        of: only of the worker pool with this main process.
    """
    found = []
    try:
        candidates = (
            find_processes(stack.mark)
            if of is None
            else psutil.Process(of).children(recursive=True)
        )
    except psutil.NoSuchProcess:
        return []
    for process in candidates:
        try:
            if process.name() == BUSY:
                found.append(process)
        except psutil.Error:
            continue
    return found


async def strike(stack: Stack, pool: Pool, fault: Fault, number: signal.Signals) -> bool:
    """Send a signal to a training process, as soon as there is one; its worker gets none.

    Anywhere between its start and the end of its slice; where nothing is trained, nothing is hit.
    """
    for _ in range(int(_COMES_S / _POLL_S)):
        if students(stack, pool.pid):
            break
        await asyncio.sleep(_POLL_S)
    await asyncio.sleep(fault.severity * SLICE_S)
    found = students(stack, pool.pid)  # perhaps already its successor
    if number is signal.SIGKILL:
        return bool(_told(found, number))
    async with _stopped(found) as hit:
        await asyncio.sleep(fault.lasts_s if hit else 0.0)
    return bool(hit)


async def hang(stack: Stack, pool: Pool, fault: Fault) -> bool:
    """Stop a worker for longer than its lease; and what it trains, every other time."""
    found = [*pool.children, *(students(stack, pool.pid) if fault.severity < _TOGETHER else ())]
    async with _stopped(found) as hit:
        await asyncio.sleep(_TOO_LONG * LEASE_S + fault.lasts_s if hit else 0.0)
    return bool(hit)


@asynccontextmanager
async def _stopped(processes: list[psutil.Process]) -> AsyncIterator[list[psutil.Process]]:
    hit = _told(processes, signal.SIGSTOP)
    try:
        yield hit
    finally:
        _told(hit, signal.SIGCONT)


def _told(processes: Iterable[psutil.Process], number: signal.Signals) -> list[psutil.Process]:
    """Those that were there to get the signal."""
    found = []
    for process in processes:
        try:
            process.send_signal(number)  # never to another one that has its id now
        except psutil.NoSuchProcess:
            continue
        found.append(process)
    return found
