"""Hear what is published on a channel of Redis, for as long as one listens.

Enters: a connection, a channel. Leaves: messages as text. A broken connection is made again; what
was published meanwhile is lost, so that a listener is told when to look for itself. Also: ask a
Redis that may be away.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError, RedisError

T = TypeVar("T")
_AGAIN_S = 0.5
_ASK_AGAIN_S = 1.0
_SILENCE_S = 10.0

REDIS_LOST = (RedisError, OSError, RuntimeError)
"""What redis-py raises when Redis is away; RuntimeError is uvloop's, of a connection that has just
been closed."""

logger = logging.getLogger("bridge.channels")


async def listen(
    redis: Redis,
    channel: str,
    heard: Callable[[str], Awaitable[None]],
    unsure: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Listen until cancelled.

    Args:
        redis: connections are taken from its pool.
        channel: its name.
        heard: called with each message, one after the other.
        unsure: called when something may have been missed: after subscribing, and after each ten
            seconds of silence.
    """
    while True:
        try:
            async with redis.pubsub() as subscription:
                await subscription.subscribe(channel)
                while True:
                    message = await subscription.get_message(timeout=_SILENCE_S)
                    if message is not None and message["type"] == "message":
                        await heard(message["data"].decode(errors="replace"))
                    elif unsure is not None:
                        await unsure()
        except REDIS_LOST as error:
            logger.info("not hearing %s, trying again: %s", channel, error)
        await asyncio.sleep(_AGAIN_S)


async def tell(redis: Redis, channel: str, message: str) -> None:
    """Publish, if Redis is there: who must not miss it looks for himself."""
    with contextlib.suppress(*REDIS_LOST):
        await redis.publish(channel, message)


async def leave_replica(redis: Redis, error: Exception) -> None:
    """Connect anew where an error says that this Redis was a master, and is one no more.

    Its connections stay open for ever; the address may lead to the new master.

    Args:
        redis: all connections of its pool are closed; whoever uses one makes another.
        error: what redis-py raised, or a script's answer.
    """
    if isinstance(error, ReadOnlyError) or "READONLY" in str(error):
        with contextlib.suppress(*REDIS_LOST):
            await redis.connection_pool.disconnect()


async def until_answered(ask: Callable[[], Awaitable[T]], what: str) -> T:
    """Ask Redis until it answers, for as long as it is away; each time is logged.

    Args:
        ask: asks once.
        what: it asks, as the log shall call it: "who trains abc".
    """
    while True:
        try:
            return await ask()
        except REDIS_LOST as error:
            logger.warning("cannot ask Redis %s, trying again: %s", what, error)
            await asyncio.sleep(_ASK_AGAIN_S)
