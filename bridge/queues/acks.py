"""Acknowledge many AMQP deliveries in few frames.

Enters: delivery tags, in the order of delivery, and which of them are done. Leaves: one
`basic.ack` with `multiple` for the oldest unbroken run, single ones for what overtook it.
"""

import asyncio
import itertools
import logging
from contextvars import Context

from aiormq.abc import AbstractChannel

from bridge.queues.lost import is_lost

# A quorum queue writes each frame's acknowledgements to its log before it delivers more: many
# small frames and it becomes the slowest part. Nobody waits for an acknowledgement.
_PATIENCE_S = 0.005

logger = logging.getLogger("bridge.acks")


class Acknowledger:
    """Of one channel. Tags of a channel that was lost are worthless: make a new one with it."""

    def __init__(self, channel: AbstractChannel, together: int) -> None:
        """Nothing is written before the first `done`.

        Args:
            channel: on which the deliveries came.
            together: write at once when so many are due.
        """
        self.channel = channel
        self.together = together
        self._timer: asyncio.TimerHandle | None = None
        self._delivered: dict[int, None] = {}  # in order, not yet acknowledged
        self._done: set[int] = set()
        self._flushing: asyncio.Task[None] | None = None

    @property
    def in_hand(self) -> int:
        """Deliveries that came and are not acknowledged yet."""
        return len(self._delivered)

    def delivered(self, tag: int) -> None:
        """A delivery has come."""
        self._delivered[tag] = None

    def done(self, tag: int) -> None:
        """A delivery is dealt with; its acknowledgement goes with one of the next frames."""
        self._done.add(tag)
        if len(self._done) >= self.together:
            self._flush_now()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE_S, self._flush_now)

    async def hand_back(self, tag: int) -> None:
        """Have a delivery put back into its queue."""
        # Until this is written the tag stays among those that no `multiple` may run over.
        try:
            await self.channel.basic_nack(tag, requeue=True)
        except (Exception, asyncio.CancelledError) as error:
            if not is_lost(error):
                raise
            logger.info("could not hand back, the connection was lost: %r", error)
        self._delivered.pop(tag, None)

    async def flush(self) -> None:
        """Write every acknowledgement that is due, and wait until it is written."""
        self._flush_now()
        while self._flushing is not None and not self._flushing.done():
            await asyncio.wait([self._flushing])

    def _flush_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(), context=Context())

    async def _flush(self) -> None:
        try:
            while self._done:
                run = list(itertools.takewhile(self._done.__contains__, self._delivered))
                if run:
                    for tag in run:
                        del self._delivered[tag]
                    self._done.difference_update(run)
                    await self.channel.basic_ack(run[-1], multiple=True)
                    continue
                overtook, self._done = self._done, set()
                for tag in overtook:
                    self._delivered.pop(tag, None)
                    await self.channel.basic_ack(tag)
        except (Exception, asyncio.CancelledError) as error:
            if not is_lost(error):
                raise
            # The channel is gone, and RabbitMQ delivers again what it did not see acknowledged.
            logger.info("could not acknowledge, the connection was lost: %r", error)
            self._done.clear()
