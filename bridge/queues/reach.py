"""A server for a question, and its failures as one sentence.

What goes wrong at RabbitMQ or Redis, from the connecting to the last answer, is a `QueueError` that
names the server.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiormq.exceptions
from aio_pika.abc import AbstractConnection
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from bridge.channels import REDIS_LOST
from bridge.errors import QueueError
from bridge.queues.topology import connect
from bridge.queues.trouble import rabbitmq_trouble, redis_refuses, redis_trouble
from bridge.settings import Settings
from bridge.stopping import told_to_stop

_REDIS_S = 5.0


@asynccontextmanager
async def reach_rabbitmq(settings: Settings) -> AsyncIterator[AbstractConnection]:
    """A plain connection, closed when the block ends.

    Raises:
        QueueError: RabbitMQ cannot be reached, refuses us, or went away meanwhile.
    """
    try:
        async with await connect(settings.rabbitmq_url) as connection:
            yield connection
    except (
        aiormq.exceptions.AMQPError,
        aiormq.exceptions.ChannelInvalidStateError,
        OSError,
    ) as error:
        raise rabbitmq_trouble(error, settings.rabbitmq_shown) from None
    except asyncio.CancelledError as error:
        if told_to_stop(error):
            raise
        silent = ConnectionError("the connection has fallen silent")
        raise rabbitmq_trouble(silent, settings.rabbitmq_shown) from None


@contextmanager
def using_redis(where: str) -> Iterator[None]:
    """Translate what redis-py raises within the block.

    Args:
        where: the address, as a person may see it.

    Raises:
        QueueError: Redis cannot be used.
    """
    try:
        yield
    except REDIS_LOST as error:
        raise redis_trouble(error, where) from None


async def redis_away(settings: Settings) -> QueueError | None:
    """Why Redis does not answer now; None where it does.

    Raises:
        QueueError: it answers, and will never let us in: it refuses the user or the database.
    """
    try:
        async with Redis.from_url(
            settings.redis_connect_url, socket_timeout=_REDIS_S, socket_connect_timeout=_REDIS_S
        ) as redis:
            await redis.ping()
    except NoPermissionError:
        return None
    except REDIS_LOST as error:
        trouble = redis_trouble(error, settings.redis_shown)
        if redis_refuses(error):
            raise trouble from None
        return trouble
    return None
