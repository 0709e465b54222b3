"""What trainings made and left: published versions, records in Redis, processes.

Enters: a stack whose parts are all up, and whose trainings have all ended. Leaves: evidence.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence

from bridge.errors import TritonError
from bridge.repository import ModelRepository
from bridge.triton_client import TritonClient
from bridgechaos.entries import Entry
from bridgechaos.stack import Stack
from bridgechaos.students import students

_GONE_S = 20.0  # a lease ends by itself; workers sweep up once in the time of one
_LOOK_S = 0.5
_KEYS = ("bridge:job:*", "bridge:jobs:*", "bridge:lease:*")


def versions(stack: Stack, entries: Sequence[Entry]) -> dict[str, list[str]]:
    """By task, the published versions whose cards name it."""
    repository = ModelRepository(stack.models.repository)
    found: dict[str, list[str]] = defaultdict(list)
    for model in sorted({entry.model for entry in entries if entry.model}):
        for version in repository.versions(model):
            card = repository.card(model, version) or {}
            found[card.get("task_id", "nobody's")].append(f"{model}/{version}")
    return dict(found)


async def left_over(stack: Stack, entries: Sequence[Entry]) -> list[str]:
    """What is still there although all trainings have ended; some time to go away is given."""
    if not any(entry.model for entry in entries):
        return []
    until = time.monotonic() + _GONE_S
    while True:
        found = [*await _keys(stack), *await asyncio.to_thread(_processes, stack)]
        found += await _not_served(stack, entries)
        if not found or time.monotonic() > until:
            return found
        await asyncio.sleep(_LOOK_S)


async def _keys(stack: Stack) -> list[str]:
    found = []
    for pattern in _KEYS:
        found += [key.decode() async for key in stack.redis.scan_iter(pattern)]
    return sorted(found)


def _processes(stack: Stack) -> list[str]:
    return [f"process {process.pid}" for process in students(stack)]


async def _not_served(stack: Stack, entries: Sequence[Entry]) -> list[str]:
    """Models whose newest version Triton does not serve."""
    repository = ModelRepository(stack.models.repository)
    newest = {
        (model, str(numbers[-1]))
        for model in {entry.model for entry in entries if entry.model}
        if (numbers := repository.versions(model))
    }
    try:
        async with TritonClient([stack.triton.address], stack.triton.admin_key) as client:
            served = {(it.name, it.version) for it in await client.index() if it.state == "READY"}
    except TritonError as error:
        return [f"Triton does not tell what it serves: {error}"]
    return [f"not served: {model} {version}" for model, version in sorted(newest - served)]
