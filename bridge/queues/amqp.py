"""One message as RabbitMQ delivered it, for the intake."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol

import aio_pika
from aiormq.abc import DeliveredMessage

from bridge.deliveries import Count
from bridge.errors import BridgeError, error_text
from bridge.queues.acks import Acknowledger
from bridge.queues.headers import copied, header_of
from bridge.queues.tiers import ATTEMPTS, CRASHES, WAITS

_MOST = 2**31  # a count above that is none


class Publisher(Protocol):
    """What puts copies elsewhere; `RabbitMQBroker` is one."""

    async def delay(
        self, message: DeliveredMessage, wait_s: float, counts: Mapping[str, int]
    ) -> None:
        """Publish a copy, confirmed, that comes back after a while."""
        ...

    async def dead_letter(self, message: DeliveredMessage, reason: BridgeError) -> None:
        """Publish a copy, confirmed, to the dead-letter queue."""
        ...


class AmqpDelivery:
    """One message of RabbitMQ's."""

    __slots__ = ("_acknowledger", "_message", "_publisher", "body", "redelivered")

    def __init__(
        self,
        message: DeliveredMessage,
        publisher: Publisher,
        acknowledger: Acknowledger,
    ) -> None:
        self.body: bytes = message.body
        self.redelivered = bool(message.redelivered)
        self._message = message
        self._publisher = publisher
        self._acknowledger = acknowledger

    @property
    def deliveries(self) -> int:
        """As quorum queues count them; a classic queue only tells a first from a later one."""
        return counted(self._message, "x-delivery-count") + 1 if self.redelivered else 1

    @property
    def attempt(self) -> int:
        """As our own header counts."""
        return max(1, counted(self._message, ATTEMPTS))

    @property
    def sent_at(self) -> float | None:
        """AMQP's `timestamp`."""
        timestamp = self._message.header.properties.timestamp
        return timestamp.timestamp() if isinstance(timestamp, datetime) else None

    async def ack(self) -> None:
        """Acknowledge with one of the next frames."""
        if self._message.delivery_tag is not None:
            self._acknowledger.done(self._message.delivery_tag)

    @property
    def crashes(self) -> int:
        """As our own header counts."""
        return counted(self._message, CRASHES)

    @property
    def waits(self) -> int:
        """As our own header counts."""
        return counted(self._message, WAITS)

    async def retry(self, wait_s: float, *, counting: Count) -> None:
        """Publish a copy to a delay queue, wait for its confirmation, acknowledge."""
        counts = {
            ATTEMPTS: self.attempt + 1,
            CRASHES: self.crashes + (counting is Count.CRASHES),
            WAITS: self.waits + (counting is Count.WAITS),
        }
        await self._publisher.delay(self._message, wait_s, counts)
        await self.ack()

    async def later(self, wait_s: float) -> None:
        """As `retry`, without counting it."""
        await self._publisher.delay(self._message, wait_s, {})
        await self.ack()

    async def hand_back(self) -> None:
        """Have RabbitMQ put it back."""
        if self._message.delivery_tag is not None:
            await self._acknowledger.hand_back(self._message.delivery_tag)

    async def dead_letter(self, reason: BridgeError) -> None:
        """Publish a copy to the dead-letter queue, and wait for its confirmation."""
        await self._publisher.dead_letter(self._message, reason)


def letter_of(message: DeliveredMessage, reason: BridgeError, queue: str) -> aio_pika.Message:
    """A copy for the dead-letter queue, with the reason in its headers.

    Args:
        message: as it was delivered.
        reason: why it is given up.
        queue: from which it came.
    """
    properties = message.header.properties
    delivered_before = counted(message, "x-delivery-count") if message.redelivered else 0
    ours = {
        "x-bridge-reason": error_text(reason, 1000),
        "x-bridge-error": type(reason).__name__,
        "x-bridge-queue": queue,
        "x-bridge-time": datetime.now(UTC),
        ATTEMPTS: max(1, counted(message, ATTEMPTS)) + delivered_before,
    }
    return aio_pika.Message(
        message.body,
        headers=copied(properties.headers or {}) | ours,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


def counted(message: DeliveredMessage, header: str) -> int:
    """A number from the headers; 0 if there is none, as anybody may write there."""
    value = header_of(message, header)
    return value if type(value) is int and 0 <= value < _MOST else 0
