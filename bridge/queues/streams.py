"""The queue on Redis Streams, through taskiq-redis: for a machine without RabbitMQ."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from taskiq import AckableMessage
from taskiq.utils import maybe_awaitable
from taskiq_redis import RedisStreamBroker

from bridge.background import end
from bridge.deliveries import Appetite
from bridge.errors import BridgeError, error_text
from bridge.intake import Intake
from bridge.queues.depths import ready_entries
from bridge.queues.handed_on import WatchingFormatter, hand_on
from bridge.results import RedisResults
from bridge.settings import Settings

_WEEK_MS = 7 * 24 * 3_600_000
_LOOK_EVERY_S = 0.1
_LATER_S = 1.0


class _StreamDelivery:
    """One entry of a stream. Whether it was delivered before is not told: it may have been."""

    redelivered = True
    deliveries = 1
    sent_at = None

    def __init__(self, message: AckableMessage, broker: "StreamBroker") -> None:
        self.body = message.data
        self.attempt = 1
        self.crashes = 0
        self._ack = message.ack
        self._broker = broker

    async def ack(self) -> None:
        """Acknowledge and delete the entry."""
        await maybe_awaitable(self._ack())

    async def retry(self, wait_s: float, *, crashed: bool) -> None:
        """Wait here, the entry in hand: a stream has no delays. A crash begins at 1 again."""
        await asyncio.sleep(wait_s)
        self.attempt += 1
        self.crashes += crashed
        await self._broker.intake.take(self)

    async def later(self, wait_s: float) -> None:
        """Go to the end of the stream after a second at most: others must not wait behind it."""
        await asyncio.sleep(min(wait_s, _LATER_S))
        await self._broker.add(self.body)
        await self.ack()

    async def hand_back(self) -> None:
        """It stays pending, and goes to whoever claims it when it has been so for long enough."""

    async def dead_letter(self, reason: BridgeError) -> None:
        """Add the message, with the reason, to the dead-letter stream."""
        await self._broker.dead_letter(self.body, reason)


class StreamBroker(RedisStreamBroker):
    """taskiq's Redis Streams broker, with our intake.

    Differs from stock in three ways: a task sent before the first worker came is not skipped, an
    acknowledged entry is deleted (the stream would grow for ever), and a crashed worker's lock
    on the pending entries ends by itself.
    """

    def __init__(self, settings: Settings, queue: str, prefetch: int) -> None:
        results = RedisResults(settings)
        super().__init__(
            url=settings.redis_connect_url,
            queue_name=queue,
            consumer_id="0",
            xread_block=500,  # milliseconds; also how long a stop may wait
            xread_count=min(prefetch, 100),
            # A crashed worker's entries go to another after so long. One entry at a time means
            # training, which may take days.
            idle_timeout=60_000 if prefetch > 1 else _WEEK_MS,
            unacknowledged_lock_timeout=30.0,
        )
        self.result_backend = self.results = results
        self.formatter = WatchingFormatter(
            settings.bridge_max_message_bytes, settings.bridge_max_read_bytes
        )
        self.intake = Intake(self, results, settings)
        self.appetite: Appetite | None = None
        self._prefetch = prefetch

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Consume: the intake deals with each entry, taskiq's receiver gets what is left.

        Yields:
            Messages of tasks that have no shortcut.
        """
        self.intake.start()
        room = asyncio.Semaphore(self._prefetch)
        dealing: set[asyncio.Task[None]] = set()
        handed_on: asyncio.Queue[AckableMessage] = asyncio.Queue()

        async def deal(message: AckableMessage) -> None:
            try:
                delivery = _StreamDelivery(message, self)
                if not await self.intake.take(delivery):
                    handed_on.put_nowait(hand_on(message.data, delivery.ack, self.intake.fail))
            finally:
                room.release()

        async def read() -> None:
            async for message in super(StreamBroker, self).listen():
                while self.appetite is not None and self.appetite() == 0:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_EVERY_S)
                await room.acquire()
                task = asyncio.create_task(deal(message))
                dealing.add(task)
                task.add_done_callback(dealing.discard)

        reader = asyncio.create_task(read())
        try:
            while True:
                getter = asyncio.create_task(handed_on.get())
                await asyncio.wait([getter, reader], return_when=asyncio.FIRST_COMPLETED)
                if not getter.done():
                    getter.cancel()
                    return  # the reader ended: by its error, raised below
                yield getter.result()
        finally:
            await end(reader)
            await self.intake.drain()

    async def add(self, body: bytes) -> None:
        """Add an entry to the stream, as taskiq-redis's `kick` does."""
        async with Redis(connection_pool=self.connection_pool) as redis:
            await redis.xadd(self.queue_name, {b"data": body})

    def trouble(self) -> str | None:
        """Why no entries come; None: they do. What ails Redis is told where Redis is checked."""
        if self.appetite is not None and self.appetite() == 0:
            return "paused: nothing that waits could be served"
        return None

    async def waiting(self) -> dict[str, int]:
        """Entries that no worker has in hand, by stream."""
        found = await ready_entries(self.results.redis, self.queue_name)
        return {} if found is None else {self.queue_name: found}

    async def dead_letter(self, body: bytes, reason: BridgeError) -> None:
        """Add an entry with the reason to the dead-letter stream."""
        fields: dict[Any, Any] = {
            b"data": body,
            b"x-bridge-reason": error_text(reason, 1000),
            b"x-bridge-error": type(reason).__name__,
            b"x-bridge-queue": self.queue_name,
            b"x-bridge-time": time.time(),
        }
        async with Redis(connection_pool=self.connection_pool) as redis:
            await redis.xadd(f"{self.queue_name}.dead_letter", fields)

    def _ack_generator(self, id: str, queue_name: str) -> Callable[[], Awaitable[None]]:  # noqa: A002 - taskiq's name
        async def acknowledge() -> None:
            async with (
                Redis(connection_pool=self.connection_pool) as redis,
                redis.pipeline(transaction=True) as pipe,
            ):
                pipe.xack(queue_name, self.consumer_group_name, id)
                pipe.xdel(queue_name, id)
                await pipe.execute()

        return acknowledge
