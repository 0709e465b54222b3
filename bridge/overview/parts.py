"""Whether each part is there, and why not."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from redis.asyncio import Redis

from bridge.errors import BridgeError
from bridge.queues import QueueDepth
from bridge.queues.reach import using_redis
from bridge.settings import Settings
from bridge.triton_client import TritonClient

T = TypeVar("T")
_ANSWER_S = 5.0
UP = "up"
_NOBODY = "no consumer on the queue: no worker runs, or it pauses as Triton is away"
_UNASKED = "unknown: its queue cannot be reached"


@dataclass(frozen=True, slots=True)
class Part:
    """One row: `state` is "up", or what is wrong and what to do."""

    part: str
    address: str
    state: str


async def bounded(call: Awaitable[T]) -> T:
    """Wait for an answer, but not for long.

    Raises:
        BridgeError: none came in time.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            return await call
    except TimeoutError:
        raise BridgeError(
            f"no answer within {_ANSWER_S:g} s: is it the right address, and not overloaded?"
        ) from None


async def find_redis(settings: Settings) -> Part:
    """Redis, as results need it."""
    try:
        await bounded(_ping(settings))
        state = UP
    except BridgeError as error:
        state = str(error)
    return Part("Redis", settings.redis_shown, state)


async def _ping(settings: Settings) -> None:
    with using_redis(settings.redis_shown):
        async with Redis.from_url(settings.redis_connect_url) as redis:
            await redis.ping()


async def find_triton(settings: Settings, address: str) -> Part:
    """One Triton."""
    async with TritonClient.from_settings(settings, [address]) as triton:
        try:
            await bounded(triton.check())
            state = UP
        except BridgeError as error:
            state = str(error)
    return Part("Triton", address, state)


def consumers(pool: str, queue: str, depths: list[QueueDepth] | None) -> Part:
    """A pool, by who consumes its queue; `depths` are None where that cannot be asked."""
    served = any(depth.name == queue and depth.consumers for depth in depths or ())
    missing = _UNASKED if depths is None else _NOBODY
    return Part(f"{pool} workers", "", UP if served else missing)
