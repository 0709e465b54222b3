"""What exists on RabbitMQ, compared with what we would declare; nothing is made or changed.

Enters: settings. Leaves: for the exchange and each queue whether it is there, and ours.
"""

from dataclasses import dataclass
from enum import Enum

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue, QueueType

from bridge.names import DEAD_LETTERS
from bridge.queues.plain import plain_channel
from bridge.queues.reach import reach_rabbitmq
from bridge.queues.topology import Declaration, declarations
from bridge.settings import Settings


class Found(Enum):
    """How something that we use stands."""

    OURS = "ours"
    MISSING = "missing"
    DIFFERS = "differs"
    """Another type, or other arguments."""
    UNKNOWN = "unknown"
    """The user may not ask."""


@dataclass(frozen=True, slots=True)
class Existing:
    """One exchange or queue."""

    kind: str
    name: str
    found: Found
    said: str = ""
    """RabbitMQ's own words, where they tell more."""


async def compare(settings: Settings) -> list[Existing]:
    """Look at the exchange, both queues and their dead letters.

    RabbitMQ tells by AMQP only whether a declaration would be refused. So what is there is declared
    once more, which changes nothing; what is not there is left so.

    Raises:
        QueueError: RabbitMQ cannot be reached, or refuses us.
    """
    kind = QueueType(settings.taskiq_ml_queue_type)
    exchange = Exchange(
        name=settings.taskiq_ml_exchange,
        type=aio_pika.ExchangeType(settings.taskiq_ml_exchange_type),
    )
    compared: dict[str, Existing] = {}
    async with reach_rabbitmq(settings) as connection:
        for name in (settings.taskiq_ml_queue, settings.taskiq_ml_training_queue):
            letters = Queue(name=f"{name}{DEAD_LETTERS}", type=kind)
            ours = declarations(exchange, Queue(name=name, type=kind), letters)
            names = (("exchange", exchange.name), ("queue", name), ("queue", letters.name))
            for (what, each), declare in zip(names, ours, strict=True):
                if each not in compared:
                    compared[each] = await _compare(connection, what, each, declare)
    return list(compared.values())


async def _compare(
    connection: AbstractConnection, kind: str, name: str, declare: Declaration
) -> Existing:
    async def look(channel: AbstractChannel) -> None:
        ask = channel.exchange_declare if kind == "exchange" else channel.queue_declare
        await ask(name, passive=True)

    try:
        for ask in (look, declare):
            async with plain_channel(connection) as channel:  # of its own: a refusal closes it
                await ask(channel)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return Existing(kind, name, Found.MISSING)
    except aiormq.exceptions.ChannelPreconditionFailed as refusal:
        return Existing(kind, name, Found.DIFFERS, str(refusal))
    except aiormq.exceptions.ChannelAccessRefused as refusal:
        return Existing(kind, name, Found.UNKNOWN, str(refusal))
    return Existing(kind, name, Found.OURS)
