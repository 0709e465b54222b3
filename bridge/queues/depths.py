"""How much waits, and who consumes."""

import asyncio
from dataclasses import dataclass

import aiormq.exceptions
from aio_pika.abc import AbstractConnection
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from bridge.names import DEAD_LETTERS
from bridge.queues.plain import plain_channel
from bridge.queues.reach import reach_rabbitmq, using_redis
from bridge.queues.tiers import TIERS_S, tier_name
from bridge.settings import Settings


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """One queue as it stands: waiting messages and consumers; None: it does not exist yet."""

    name: str
    messages: int | None
    consumers: int | None


async def queue_depths(settings: Settings) -> list[QueueDepth]:
    """How much waits in each queue and its dead letters, and who consumes.

    Then, if anything ever did, how much waits for its next try: one entry for a queue's delays.

    Raises:
        QueueError: RabbitMQ, or Redis where it is the queue, cannot be reached.
    """
    names = [
        name
        for queue in (settings.taskiq_ml_queue, settings.taskiq_ml_training_queue)
        for name in (queue, f"{queue}{DEAD_LETTERS}")
    ]
    if settings.bridge_queue == "redis-streams":
        return await _stream_depths(settings, names)
    tiers = {queue: [tier_name(queue, tier) for tier in TIERS_S] for queue in names[::2]}
    asked = [*names, *(tier for of_queue in tiers.values() for tier in of_queue)]
    async with reach_rabbitmq(settings) as connection:
        # All at a time: one after the other they take too long where the server is far away.
        found = await asyncio.gather(*(_depth(connection, name) for name in asked))
    by_name = dict(zip(asked, found, strict=True))
    depths = [by_name[name] for name in names]
    for queue, of_queue in tiers.items():
        delayed = [waits for tier in of_queue if (waits := by_name[tier].messages) is not None]
        if delayed:
            depths.append(QueueDepth(f"{queue}.delay", sum(delayed), None))
    return depths


async def ready_messages(connection: AbstractConnection, name: str) -> int | None:
    """Messages that wait in a queue of RabbitMQ, in no worker's hands; None: it is not there."""
    return (await _depth(connection, name)).messages


async def ready_entries(redis: Redis, name: str) -> int | None:
    """Entries that wait in a stream, in no worker's hands; None: it is not there."""
    try:
        groups = await redis.xinfo_groups(name)
        length = await redis.xlen(name)
    except ResponseError:  # no such stream
        return None
    return max(0, int(length) - max((int(group["pending"]) for group in groups), default=0))


async def _depth(connection: AbstractConnection, name: str) -> QueueDepth:
    try:
        async with plain_channel(connection) as channel:
            found = await channel.queue_declare(name, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return QueueDepth(name, None, None)
    return QueueDepth(name, found.message_count, found.consumer_count)


async def _stream_depths(settings: Settings, names: list[str]) -> list[QueueDepth]:
    depths = []
    with using_redis(settings.redis_shown):
        async with Redis.from_url(settings.redis_connect_url) as redis:
            for name in names:
                try:
                    groups = await redis.xinfo_groups(name)
                except ResponseError:  # no such stream
                    depths.append(QueueDepth(name, None, None))
                else:
                    consumers = sum(int(group["consumers"]) for group in groups)
                    depths.append(QueueDepth(name, await redis.xlen(name), consumers))
    return depths
