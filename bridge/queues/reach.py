"""A connection to RabbitMQ for a question, and its failures as one sentence.

Enters: settings. Leaves: a plain connection, closed in the end. What goes wrong on it, from the
connecting to the last frame, is a `QueueError` that names the server.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiormq.exceptions
from aio_pika.abc import AbstractConnection

from bridge.queues.topology import connect
from bridge.queues.trouble import rabbitmq_trouble
from bridge.settings import Settings


@asynccontextmanager
async def reach_rabbitmq(settings: Settings) -> AsyncIterator[AbstractConnection]:
    """Connect, as long as the block lasts.

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
