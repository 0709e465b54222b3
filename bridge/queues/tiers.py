"""Messages that come back later: one queue for each delay, so that none waits behind another.

Enters: a delivery and a wait. Leaves: a confirmed copy in a queue whose messages all live equally
long, after which RabbitMQ moves them to the queue from which they came (`x-message-ttl` and
`x-dead-letter-routing-key`; "at-least-once" dead lettering where the queue is a quorum queue).
"""

import bisect
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractExchange
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelPreconditionFailed, DeliveryError
from taskiq_aio_pika.queue import QueueType

from bridge.errors import QueueError
from bridge.queues.headers import copied, header_of
from bridge.queues.plain import plain_channel

ATTEMPTS = "x-bridge-attempts"
"""Header: which try of the task this message is; 1 where it is missing."""

CRASHES = "x-bridge-crashes"
"""Header: how many tries were there when their model's process died; 0 where it is missing."""

WAITS = "x-bridge-waits"
"""Header: how many tries found their model away, or others' turn; 0 where it is missing."""

BEGIN_AT = "x-bridge-begin-at"
"""Header: Unix time in milliseconds (the client library writes floats with 24 bits) at which a
delayed task is to begin. It waits in several tiers, one after the other, so that any delay can be
had; it is late by less than a second."""

TIERS_S = (1, 2, 4, 8, 16, 32, 64)
"""The delays there are, in seconds. Waits between them are rounded up."""


logger = logging.getLogger("bridge.queues")

_CLOCKS_S = 0.05  # a timer, which has another clock, may go off a little before


def tier_s(wait_s: float) -> int:
    """The delay in which a message spends its wait: the next longer one, or the longest."""
    return TIERS_S[min(bisect.bisect_left(TIERS_S, wait_s), len(TIERS_S) - 1)]


def early(message: DeliveredMessage) -> float | None:
    """When a message that came before its time is to begin; None: it may."""
    value = header_of(message, BEGIN_AT)
    if type(value) is not int or value / 1000 - time.time() <= _CLOCKS_S:
        return None
    return value / 1000


def copy_of(message: DeliveredMessage, headers: Mapping[str, Any]) -> aio_pika.Message:
    """A delivery to be published again, with some headers changed."""
    properties = message.header.properties
    return aio_pika.Message(
        message.body,
        headers=copied(properties.headers or {}) | dict(headers),
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        priority=properties.priority,
        timestamp=properties.timestamp,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


class Tiers:
    """The delay queues of one queue; each is declared when it is first needed."""

    def __init__(self, queue: str, kind: QueueType) -> None:
        self._queue = queue
        self._arguments: dict[str, Any] = {
            "x-queue-type": kind.value,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
        }
        if kind is QueueType.QUORUM:
            self._arguments |= {
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",  # which that strategy asks for
            }
        self._declared: set[int] = set()

    async def publish(
        self,
        connection: AbstractConnection,
        exchange: AbstractExchange,
        message: DeliveredMessage,
        *,
        wait_s: float,
        counts: Mapping[str, int],
    ) -> None:
        """Put a copy of a delivery, as its next attempt, where it waits; returns when confirmed.

        Args:
            connection: for declaring.
            exchange: RabbitMQ's default one, on a channel with confirmations.
            message: the delivery; the caller acknowledges it afterwards.
            wait_s: seconds; more than the longest tier means the longest.
            counts: headers of the copy that count tries.

        Raises:
            QueueError: RabbitMQ does not take it.
        """
        tier = tier_s(wait_s)
        copy = copy_of(message, counts)
        # From which a deadline is counted: it must not begin anew with each try.
        copy.timestamp = copy.timestamp or datetime.now(UTC)
        await self._put(connection, exchange, copy, tier)

    async def hold(
        self,
        connection: AbstractConnection,
        exchange: AbstractExchange,
        message: aio_pika.Message,
        begin_at: float,
    ) -> None:
        """Put a message where it waits; returns when confirmed.

        It comes back in time, or before, and then it is to be held again.

        Args:
            connection: for declaring.
            exchange: RabbitMQ's default one, on a channel with confirmations.
            message: a new one, or a delivery's copy.
            begin_at: Unix time.

        Raises:
            QueueError: RabbitMQ does not take it.
        """
        left_s = begin_at - time.time()
        tier = TIERS_S[max(bisect.bisect_right(TIERS_S, left_s + _CLOCKS_S), 1) - 1]
        message.headers[BEGIN_AT] = round(begin_at * 1000)
        message.delivery_mode = aio_pika.DeliveryMode.PERSISTENT
        await self._put(connection, exchange, message, tier)

    async def _put(
        self,
        connection: AbstractConnection,
        exchange: AbstractExchange,
        copy: aio_pika.Message,
        tier: int,
    ) -> None:
        for _ in range(2):
            if tier not in self._declared:
                await self._declare(connection, tier)
            try:
                await exchange.publish(copy, routing_key=self._name(tier))
            except DeliveryError:
                self._declared.discard(tier)  # somebody deleted it
            else:
                return
        raise QueueError(f"RabbitMQ does not take messages into {self._name(tier)}")

    async def _declare(self, connection: AbstractConnection, tier: int) -> None:
        # On a channel of its own: one that is refused closes its channel.
        try:
            async with plain_channel(connection) as channel:
                await channel.queue_declare(
                    self._name(tier),
                    durable=True,
                    arguments={**self._arguments, "x-message-ttl": tier * 1000},
                )
        except ChannelPreconditionFailed as refusal:  # of another time, with another queue type
            logger.warning("%s is used as it is: %s", self._name(tier), refusal)
        self._declared.add(tier)

    def _name(self, tier: int) -> str:
        return tier_name(self._queue, tier)


def tier_name(queue: str, tier: int) -> str:
    """The queue in which messages of `queue` wait for so many seconds."""
    return f"{queue}.delay.{tier}s"
