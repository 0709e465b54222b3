"""How much waits, and who consumes."""

from dataclasses import dataclass

import aiormq.exceptions
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from bridge.advice import redis_advice
from bridge.errors import QueueError
from bridge.queues.letters import SUFFIX
from bridge.queues.reach import reach_rabbitmq
from bridge.settings import Settings


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """One queue as it stands: waiting messages and consumers; None: it does not exist yet."""

    name: str
    messages: int | None
    consumers: int | None


async def queue_depths(settings: Settings) -> list[QueueDepth]:
    """How much waits in each queue and its dead letters, and who consumes.

    Raises:
        QueueError: RabbitMQ, or Redis where it is the queue, cannot be reached.
    """
    names = [
        name
        for queue in (settings.taskiq_ml_queue, settings.taskiq_ml_training_queue)
        for name in (queue, f"{queue}{SUFFIX}")
    ]
    if settings.bridge_queue == "redis-streams":
        return await _stream_depths(settings, names)
    depths = []
    async with reach_rabbitmq(settings) as connection:
        for name in names:
            channel = await connection.channel()
            try:
                found = (await channel.get_queue(name)).declaration_result
                depths.append(QueueDepth(name, found.message_count, found.consumer_count))
            except aiormq.exceptions.ChannelNotFoundEntity:
                depths.append(QueueDepth(name, None, None))
    return depths


async def _stream_depths(settings: Settings, names: list[str]) -> list[QueueDepth]:
    depths = []
    async with Redis.from_url(settings.redis_connect_url) as redis:
        for name in names:
            try:
                groups = await redis.xinfo_groups(name)
            except ResponseError:  # no such stream
                depths.append(QueueDepth(name, None, None))
            except RedisError as error:
                shown = settings.redis_shown
                raise QueueError(
                    f"cannot use Redis at {shown} ({error}); {redis_advice(error, shown)}"
                ) from None
            else:
                consumers = sum(int(group["consumers"]) for group in groups)
                depths.append(QueueDepth(name, await redis.xlen(name), consumers))
    return depths
