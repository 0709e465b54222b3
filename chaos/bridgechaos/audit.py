"""Gathers the evidence: results, dead letters, what lies in queues, what was executed.

Enters: the run's book, a stack whose parts are all up. Leaves: `Evidence`.
"""

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import aiormq
from aiormq.exceptions import AMQPError
from redis.exceptions import RedisError

from bridge.background import all_or_nothing
from bridge.errors import BridgeError
from bridge.messages import Formatter
from bridgechaos.answers import read_record
from bridgechaos.entries import Entry, Evidence, Found
from bridgechaos.leavings import left_over, versions
from bridgechaos.stack import Stack

_AT_A_TIME = 1000
_LOOK_S = 0.5
_ENDED_S = 0.05
_SAY_EVERY_S = 5.0
_RETURNED_S = 1.0  # what a killed worker held is ready again by then
_NONSENSE = re.compile(rb"no task: ([0-9a-f]{32})")
_RESULT_KEY = re.compile(rb"[0-9a-f]{32}")


async def settled(
    stack: Stack, entries: Sequence[Entry], within_s: float, say: Callable[[str], None]
) -> tuple[float, list[str]]:
    """Wait until every confirmed task has ended and no queue holds a message, or time is over.

    Returns:
        How many seconds that took, and the ids of those that have not ended.
    """
    begun = time.monotonic()
    missing = [entry.task_id or "" for entry in entries if entry.confirmed and entry.want.record]
    queues: dict[str, tuple[int, int]] = {}
    said = begun
    while time.monotonic() - begun < within_s:
        try:
            missing = await _without_result(stack, missing)
            if not missing:
                queues = await _task_queues(stack)
                if not any(ready or unacked for ready, unacked in queues.values()):
                    break
        except (RedisError, OSError, RuntimeError):
            pass  # the supervisor is at it
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            say(f"  settling: {len(missing)} without a result; queues {queues}")
        await asyncio.sleep(_LOOK_S)
    return time.monotonic() - begun, missing


async def ended(stack: Stack, entries: Sequence[Entry], within_s: float) -> bool:
    """Wait until these have their results, as far as they were confirmed; False: not in time."""
    missing = [entry.task_id or "" for entry in entries if entry.confirmed and entry.want.record]
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with contextlib.suppress(RedisError, OSError):
            missing = await _without_result(stack, missing)
            if not missing:
                return True
        await asyncio.sleep(_ENDED_S)
    return False


async def gather(stack: Stack, entries: Sequence[Entry]) -> Evidence:
    """All that is to be found now; empties the dead-letter queue."""
    serials = [serial for entry in entries for serial in entry.serials]
    executions: Any = await asyncio.to_thread(stack.models.executions, serials) if serials else []
    queues = await _task_queues(stack)
    held = [name for name, (ready, unacked) in queues.items() if ready or unacked]
    return Evidence(
        waiting=frozenset(await _waiting(stack, held)) if held else frozenset(),
        records=await _records(stack, entries),
        letters=await _letters(stack),
        queues=queues,
        executions=dict(zip(serials, map(int, executions), strict=True)),
        versions=versions(stack, entries),
        left_over=await left_over(stack, entries),
    )


async def clear(stack: Stack) -> None:
    """Forget what earlier runs left, so that it is not taken for this one's."""
    await stack.redis.flushall()
    connection = await aiormq.connect(stack.direct.rabbitmq_url)
    try:
        channel = await connection.channel()
        for name in await stack.rabbitmq.queues():
            await channel.queue_purge(name)
    finally:
        await connection.close()


async def _without_result(stack: Stack, ids: Sequence[str]) -> list[str]:
    left: list[str] = []
    for start in range(0, len(ids), _AT_A_TIME):
        part = ids[start : start + _AT_A_TIME]
        pipe = stack.redis.pipeline(transaction=False)
        for task_id in part:
            pipe.exists(task_id)
        found = await pipe.execute()
        left += [task_id for task_id, there in zip(part, found, strict=True) if not there]
    return left


async def _task_queues(stack: Stack) -> dict[str, tuple[int, int]]:
    """All but dead-letter queues, whoever made them: where retries wait counts too."""
    queues = await stack.rabbitmq.queues()
    return {name: it for name, it in queues.items() if not name.endswith(".dead_letter")}


async def _records(stack: Stack, entries: Sequence[Entry]) -> dict[str, Found]:
    by_id = {entry.task_id: entry for entry in entries}
    found: dict[str, Found] = {}
    scanned = stack.redis.scan_iter(count=_AT_A_TIME)
    keys = [key async for key in scanned if _RESULT_KEY.fullmatch(key)]
    for start in range(0, len(keys), _AT_A_TIME):
        part = keys[start : start + _AT_A_TIME]
        values: list[Any] = await stack.redis.mget(part)
        for key, value in zip(part, values, strict=True):
            task_id = key.decode()
            if value is not None:
                found[task_id] = read_record(stack.models, by_id.get(task_id), value)
        await asyncio.sleep(0)
    return found


async def _waiting(stack: Stack, names: Sequence[str]) -> Counter[str]:
    """What lies in task queues, in a worker's hand or not; takes it all, and leaves new workers."""
    async with AsyncExitStack() as locks:
        pools = [stack.parts[name] for name in stack.pools]
        for pool in pools:
            await locks.enter_async_context(pool.lock)
        await all_or_nothing(pool.server.kill() for pool in pools)
        await asyncio.sleep(_RETURNED_S)
        found = await _taken(stack, names)
        await all_or_nothing(pool.revive() for pool in pools)
    return found


async def _letters(stack: Stack) -> Counter[str]:
    names = [name for name in await stack.rabbitmq.queues() if name.endswith(".dead_letter")]
    return await _taken(stack, names)


async def _taken(stack: Stack, names: Sequence[str]) -> Counter[str]:
    """Take all messages of these queues; their ids, however broken they are."""
    read = Formatter()
    found: Counter[str] = Counter()
    connection = await aiormq.connect(stack.direct.rabbitmq_url)
    try:
        channel = await connection.channel()
        for name in names:
            while (message := await channel.basic_get(name, no_ack=True)).delivery_tag:
                nonsense = _NONSENSE.search(message.body)
                try:
                    task_id = nonsense[1].decode() if nonsense else read.loads(message.body).task_id
                except BridgeError:
                    task_id = f"unreadable: {message.body[:60]!r}"
                found[task_id] += 1
    except AMQPError as error:
        raise RuntimeError(f"messages cannot be read: {error}") from None
    finally:
        await connection.close()
    return found
