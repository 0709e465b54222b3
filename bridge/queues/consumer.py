"""One AMQP consumer that is always there.

Enters: a robust channel, a queue. Leaves: deliveries, each as a task of its own. Below aio-pika's
`Queue.consume`, which makes three tasks and a message object of each delivery. A watchdog looks
after it: whatever ended the consumer (a reconnection, a channel that the server closed, a queue
that was deleted), it is there again when the server is.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiormq
import aiormq.exceptions
from aio_pika.abc import AbstractChannel
from aiormq.abc import DeliveredMessage
from taskiq_aio_pika.queue import Queue

logger = logging.getLogger("bridge.queues")

_LOOK_EVERY_S = 0.5
_REPLY_S = 10.0


class Consumer:
    """Consumes one queue on whatever connection `channel` has at the time."""

    def __init__(
        self,
        channel: AbstractChannel,
        queue: Queue,
        declare: Callable[[], Awaitable[None]],
        receive: Callable[[DeliveredMessage], Awaitable[Any]],
    ) -> None:
        """Nothing is consumed before `run`.

        Args:
            channel: a robust one, with its prefetch set.
            queue: what to consume.
            declare: makes the queue where it is gone.
            receive: deals with one delivery.
        """
        self._robust = channel
        self._queue = queue
        self._declare = declare
        self._receive = receive
        self._channel: Any = None
        self._tag: str | None = None

    async def run(self) -> None:
        """Consume, and see to it that it stays so, until cancelled."""
        while True:
            try:
                channel = await self._robust.get_underlay_channel()
                if channel is not self._channel or self._tag not in channel.consumers:
                    await self._begin(channel)
            except (aiormq.exceptions.AMQPError, OSError, RuntimeError, TimeoutError) as error:
                logger.warning("cannot consume %s, trying again: %s", self._queue.name, error)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def cancel(self) -> None:
        """Take no more deliveries; those that came may still be acknowledged."""
        if self._channel is None or self._tag is None or self._channel.is_closed:
            return
        try:
            await self._channel.basic_cancel(self._tag, timeout=_REPLY_S)
        except (aiormq.exceptions.AMQPError, OSError, RuntimeError, TimeoutError) as error:
            logger.info("the connection was lost before the consumer was cancelled: %s", error)

    async def _begin(self, channel: Any) -> None:
        await self._declare()
        answer = await channel.basic_consume(
            self._queue.name,
            self._receive,
            arguments=self._queue.consumer_arguments,
            timeout=_REPLY_S,
        )
        if self._channel is not None:
            logger.warning("consuming %s again", self._queue.name)
        self._channel, self._tag = channel, answer.consumer_tag
