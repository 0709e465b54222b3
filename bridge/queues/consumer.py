"""One AMQP consumer that is always there, and takes as much as is asked of it.

Enters: a robust channel, a queue, how many messages may be in hand. Leaves: deliveries, each as a
task of its own. Below aio-pika's `Queue.consume`, which makes three tasks and a message object of
each delivery. A watchdog looks after it: whatever ended the consumer (a reconnection, a channel
that the server closed, a queue that was deleted), it is there again when the server is.

AMQP's prefetch belongs to a consumer for life (RabbitMQ, "Consumer Prefetch"), so a new prefetch
is a new consumer. It begins before the old one ends; what that one delivered stays valid.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aio_pika.abc import AbstractRobustChannel
from aiormq.abc import DeliveredMessage
from taskiq_aio_pika.queue import Queue

from bridge.queues.lost import is_lost

logger = logging.getLogger("bridge.queues")

_LOOK_EVERY_S = 0.1
_AGAIN_S, _LONGEST_S = 1.0, 5.0  # until it is tried again: each try may open a channel
_COMPLAIN_EVERY_S = 5.0
_REPLY_S = 10.0
_SMALLER_LOOKS = 20  # for how many looks a much smaller prefetch must be enough


class Consumer:
    """Consumes one queue on whatever connection `channel` has at the time."""

    def __init__(  # noqa: PLR0913 - what a consumer is told
        self,
        channel: AbstractRobustChannel,
        queue: Queue,
        *,
        prefetch: Callable[[], int],
        room: Callable[[], int],
        declare: Callable[[], Awaitable[None]],
        receive: Callable[[DeliveredMessage], Awaitable[Any]],
    ) -> None:
        """Nothing is consumed before `run`.

        Args:
            channel: a robust one.
            queue: what to consume.
            prefetch: how many messages may be in hand; 0: pause. Asked ten times a second.
            room: how many may come beside those in hand, as a change of prefetch has them come.
            declare: makes the queue where it is gone.
            receive: deals with one delivery.
        """
        self._robust = channel
        self._queue = queue
        self._prefetch = prefetch
        self._room = room
        self._declare = declare
        self._receive = receive
        self._channel: Any = None
        self._tag: str | None = None
        self._now = 0
        self._smaller = 0

    @property
    def consuming(self) -> bool:
        """Whether deliveries come."""
        return (
            self._channel is not None
            and not self._channel.is_closed
            and self._tag in self._channel.consumers
        )

    async def run(self) -> None:
        """Consume, and see to it that it stays so, until cancelled."""
        complained = 0.0
        pause_s = _AGAIN_S
        while True:
            try:
                async with asyncio.timeout(_REPLY_S):
                    await self._robust.restore()  # nobody repeats it where it failed; else nothing
                await self._look(await self._robust.get_underlay_channel())
            except (Exception, asyncio.CancelledError) as error:
                if not is_lost(error):
                    raise
                now = asyncio.get_running_loop().time()
                if now > complained + _COMPLAIN_EVERY_S:
                    complained = now
                    logger.warning("cannot consume %s, trying again: %r", self._queue.name, error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_S)
            else:
                pause_s = _AGAIN_S
                await asyncio.sleep(_LOOK_EVERY_S)

    async def cancel(self) -> None:
        """Take no more deliveries; those that came may still be acknowledged."""
        if self._channel is None or self._tag is None or self._channel.is_closed:
            return
        tag, self._tag = self._tag, None
        try:
            await self._channel.basic_cancel(tag, timeout=_REPLY_S)
        except (Exception, asyncio.CancelledError) as error:
            if not is_lost(error):
                raise
            logger.info("the connection was lost before the consumer was cancelled: %r", error)

    async def _look(self, channel: Any) -> None:
        wanted = self._prefetch()
        if channel is not self._channel or self._tag not in channel.consumers:
            lost = self._tag is not None
            self._channel, self._tag = channel, None
            if wanted:
                async with asyncio.timeout(_REPLY_S):
                    await self._declare()
                await self._begin(channel, wanted)
                if lost:
                    logger.warning("consuming %s again", self._queue.name)
        elif not wanted:
            await self.cancel()
        elif self._worth_changing(wanted):
            old = self._tag
            await self._begin(channel, wanted)
            await channel.basic_cancel(old, timeout=_REPLY_S)

    def _worth_changing(self, wanted: int) -> bool:
        """More is wanted at once, less when it lasts; a little more or less is not worth it.

        A new consumer takes as many again, whatever is in hand: where nothing ends, as Redis takes
        no results, change after change would bring the whole queue here.
        """
        self._smaller = self._smaller + 1 if wanted * 2 <= self._now else 0
        changed = wanted >= self._now * 2 or self._smaller >= _SMALLER_LOOKS
        return changed and wanted <= self._room()

    async def _begin(self, channel: Any, prefetch: int) -> None:
        await channel.basic_qos(prefetch_count=prefetch, timeout=_REPLY_S)
        answer = await channel.basic_consume(
            self._queue.name,
            self._receive,
            arguments=self._queue.consumer_arguments,
            timeout=_REPLY_S,
        )
        self._tag, self._now, self._smaller = answer.consumer_tag, prefetch, 0
