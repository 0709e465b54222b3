"""An open loop: calls begin when they are due, whether or not earlier ones have ended.

Due times are a Poisson process, drawn with a fixed seed. A call's latency counts from when it was
due, so that a system that falls behind cannot hide it (no coordinated omission). Timers go by the
millisecond; both ways to the model bear that alike.
"""

import asyncio
import time
from dataclasses import dataclass

import numpy as np

from bridgebench.callers import Call

_MOST_OUT = 4_000
_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Offered:
    """What came of one offered load."""

    offered_per_s: float
    """As drawn."""
    served_per_s: float
    """Answers by the time the last one was there."""
    latency_ms: tuple[float, ...]
    gave_up: bool
    """So many calls were out that no more were begun, or not all ended in time."""


async def offer(call: Call, per_s: float, seconds: float, seed: int) -> Offered:
    """Offer a load for so many seconds."""
    gaps = np.random.default_rng(seed).exponential(1 / per_s, int(per_s * seconds * 1.5) + 20)
    due_s = [float(due) for due in np.cumsum(gaps) if due < seconds]
    ended: list[tuple[float, float]] = []
    out: set[asyncio.Task[None]] = set()
    begun = time.perf_counter() + 0.05

    async def one(due: float) -> None:
        await call()
        ended.append((due, time.perf_counter()))

    for due in due_s:
        wait_s = begun + due - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        if len(out) >= _MOST_OUT:
            break
        task = asyncio.create_task(one(begun + due))
        out.add(task)
        task.add_done_callback(out.discard)
    begun_calls = len(ended) + len(out)
    if out:
        await asyncio.wait(out, timeout=_WAIT_S)
    late = list(out)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    last = max((end for _, end in ended), default=begun) - begun
    return Offered(
        offered_per_s=len(due_s) / seconds,
        served_per_s=len(ended) / max(last, seconds),
        latency_ms=tuple((end - due) * 1e3 for due, end in ended),
        gave_up=bool(late) or begun_calls < len(due_s),
    )
