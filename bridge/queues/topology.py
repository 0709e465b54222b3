"""What exists on RabbitMQ already, and what is done about it: it is used as it is.

What we declare is exactly what a stock `AioPikaBroker` declares for the same names, so that
either side may come first.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractConnection
from aio_pika.connection import make_url
from aiormq.abc import AbstractChannel
from pamqp.common import FieldTable
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue

from bridge.queues.plain import plain_channel

logger = logging.getLogger("bridge.queues")

CONNECT_S = 10.0

Declaration = Callable[[AbstractChannel], Awaitable[None]]
"""On a channel of `plain_channel`."""


async def connect(url: str) -> AbstractConnection:
    """A plain connection, for a question; close it. One that fails is closed here.

    Raises:
        OSError, AMQPError: as aio-pika's own `connect`, which leaves a failed one to the
            collector, with a coroutine that nobody awaits.
    """
    connection = aio_pika.Connection(make_url(url))
    try:
        await connection.connect(timeout=CONNECT_S)
    except BaseException:
        await connection.close()
        raise
    return connection


def declarations(
    exchange: Exchange, queue: Queue, letters: Queue
) -> tuple[Declaration, Declaration, Declaration]:
    """How we declare each of the three."""

    async def declare_exchange(channel: AbstractChannel) -> None:
        kind = exchange.type.value
        await channel.exchange_declare(exchange.name, exchange_type=kind, durable=exchange.durable)

    async def declare_letters(channel: AbstractChannel) -> None:
        arguments: FieldTable = {"x-queue-type": letters.type.value}
        await channel.queue_declare(letters.name, durable=letters.durable, arguments=arguments)

    async def declare_queue(channel: AbstractChannel) -> None:
        arguments: FieldTable = {
            "x-queue-type": queue.type.value,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": letters.name,
        }
        await channel.queue_declare(queue.name, durable=queue.durable, arguments=arguments)

    return declare_exchange, declare_queue, declare_letters


async def find(
    url: str, exchange: Exchange, queue: Queue, letters: Queue
) -> tuple[Exchange, Queue, Queue]:
    """Declare exchange, queue and dead-letter queue; mark what is refused "not to be declared".

    A warning then names what was found and the remedy; the queue is bound all the same.

    Args:
        url: of RabbitMQ.
        exchange: as we would declare it.
        queue: likewise, with `letters` for its dead letters.
        letters: likewise.
    """
    declare_exchange, declare_queue, declare_letters = declarations(exchange, queue, letters)
    connection = await connect(url)
    async with connection:
        if not await _declared(connection, declare_exchange, "exchange"):
            exchange = replace(exchange, declare=False)
        if not await _declared(connection, declare_letters, "queue"):
            letters = replace(letters, declare=False)
        if not await _declared(connection, declare_queue, "queue"):
            queue = replace(queue, declare=False)
            async with plain_channel(connection) as channel:
                await channel.queue_declare(queue.name, passive=True)
                # A producer's user need not have the right: what a worker bound stays bound.
                with contextlib.suppress(aiormq.exceptions.ChannelAccessRefused):
                    await _bind(channel, exchange, queue)
    return exchange, queue, letters


async def see_to_queues(
    connection: AbstractConnection, exchange: Exchange, queue: Queue, letters: Queue
) -> None:
    """Declare again what `find` did not mark "not to be declared"; look for what it did.

    Raises:
        AMQPError: what is not to be declared is not there, or a declaration was refused.
    """
    _, declare_queue, declare_letters = declarations(exchange, queue, letters)
    async with plain_channel(connection) as channel:
        for each, declare in ((letters, declare_letters), (queue, declare_queue)):
            if each.declare:
                await declare(channel)
            else:
                await channel.queue_declare(each.name, passive=True)
        if queue.declare:
            await _bind(channel, exchange, queue)


async def _bind(channel: AbstractChannel, exchange: Exchange, queue: Queue) -> None:
    await channel.queue_bind(queue.name, exchange.name, queue.routing_key or queue.name)


async def _declared(connection: AbstractConnection, declare: Declaration, what: str) -> bool:
    # A refused declaration closes its channel: each has one of its own.
    try:
        async with plain_channel(connection) as channel:
            await declare(channel)
    except aiormq.exceptions.ChannelAccessRefused as refusal:
        logger.info("may not declare the %s, which is used as it is: %s", what, refusal)
        return False
    except aiormq.exceptions.ChannelPreconditionFailed as refusal:
        logger.warning(
            "RabbitMQ has another %s than this would declare, and it is used as it is (%s). To "
            "get ours, drain and delete it; to keep it without this warning, set "
            "TASKIQ_ML_EXCHANGE_TYPE or TASKIQ_ML_QUEUE_TYPE to what it is.",
            what,
            refusal,
        )
        return False
    return True
