"""The queue on Redis Streams, through taskiq-redis: for a machine without RabbitMQ."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

from redis.asyncio import Redis
from taskiq import AckableMessage
from taskiq_redis import RedisStreamBroker

from bridge.background import end
from bridge.channels import REDIS_LOST
from bridge.deliveries import Appetite, Count
from bridge.errors import BridgeError, error_text
from bridge.intake import Intake
from bridge.names import DEAD_LETTERS
from bridge.queues.depths import ready_entries
from bridge.queues.handed_on import WatchingFormatter, hand_on
from bridge.results import RedisResults
from bridge.settings import Settings

logger = logging.getLogger("bridge.queues")

_LOOK_EVERY_S = 0.1
_LATER_S = 1.0
_AGAIN_S = 1.0
_CLAIM_EVERY_S = 5.0
_AT_ONCE = 100
_HELD_FOR = 4  # times that a worker says that it has an entry before another may take it
_ODD_MS = 10**12  # ids below this are no times: somebody chose them


class _StreamDelivery:
    """One entry of a stream."""

    def __init__(
        self, broker: "StreamBroker", entry: bytes, fields: dict[bytes, bytes], claimed: int = 0
    ) -> None:
        self.entry = entry
        self.body = fields.get(b"data", b"")  # none: somebody added what is no task
        self.deliveries = claimed or 1
        self.redelivered = claimed > 0
        self.attempt = 1
        self.crashes = self.waits = 0
        self.again_in_s: float | None = None
        added_ms = int(entry.partition(b"-")[0])
        self.sent_at = added_ms / 1000 if added_ms > _ODD_MS else None
        self._broker = broker

    async def ack(self) -> None:
        """Acknowledge and delete the entry."""
        await self._broker.acknowledge(self.entry)

    async def retry(self, wait_s: float, *, counting: Count) -> None:
        """Have it wait here, in hand: a stream has no delays. A crash begins at 1 again."""
        self.attempt += 1
        self.crashes += counting is Count.CRASHES
        self.waits += counting is Count.WAITS
        self.again_in_s = wait_s

    async def later(self, wait_s: float) -> None:
        """Go to the end of the stream after a second at most: others must not wait behind it."""
        await asyncio.sleep(min(wait_s, _LATER_S))
        await self._broker.add(self.body)
        await self.ack()

    async def hand_back(self) -> None:
        """Let whoever looks next have it."""
        await self._broker.hand_back(self.entry)

    async def dead_letter(self, reason: BridgeError) -> None:
        """Add the message, with the reason, to the dead-letter stream."""
        await self._broker.dead_letter(self.body, reason)


class StreamBroker(RedisStreamBroker):
    """taskiq's Redis Streams broker, with our intake.

    Differs from stock in what it reads: a task sent before the first worker came is not skipped, an
    acknowledged entry is deleted (the stream would grow for ever), a crashed worker's entries are
    taken over also where no new ones come, those of a busy worker are not, and an entry that is no
    task harms nobody. Redis may be away for a while.
    """

    def __init__(self, settings: Settings, queue: str, prefetch: int) -> None:
        results = RedisResults(settings)
        super().__init__(
            url=settings.redis_connect_url,
            queue_name=queue,
            consumer_id="0",
            xread_block=500,  # milliseconds; also how long a stop may wait
            xread_count=min(prefetch, _AT_ONCE),
            idle_timeout=60_000,  # a crashed worker's entries go to another after so long
        )
        self.result_backend = self.results = results
        self.formatter = WatchingFormatter(
            settings.bridge_max_message_bytes, settings.bridge_max_read_bytes
        )
        self.intake = Intake(self, results, settings)
        self.appetite: Appetite | None = None
        self._prefetch = prefetch
        self._in_hand: set[bytes] = set()
        self._with_taskiq: set[bytes] = set()

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Consume: the intake deals with each entry, taskiq's receiver gets what is left.

        Yields:
            Messages of tasks that have no shortcut.
        """
        self.intake.start()
        room = asyncio.Semaphore(self._prefetch)
        dealing: set[asyncio.Task[None]] = set()
        handed_on: asyncio.Queue[AckableMessage] = asyncio.Queue()

        async def deal(delivery: _StreamDelivery) -> None:
            try:
                dealt = await self.intake.take(delivery)
                while delivery.again_in_s is not None:
                    wait_s, delivery.again_in_s = delivery.again_in_s, None
                    await asyncio.sleep(wait_s)
                    dealt = await self.intake.take(delivery)
                if dealt:
                    self._in_hand.discard(delivery.entry)
                else:
                    self._with_taskiq.add(delivery.entry)
                    handed_on.put_nowait(hand_on(delivery.body, delivery.ack, self.intake.fail))
            finally:
                room.release()

        async def read() -> None:
            deliveries = self._deliveries()
            while True:
                while self.appetite is not None and self.appetite() == 0:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_EVERY_S)
                await room.acquire()  # first: what is read is kept from others
                delivery = await anext(deliveries)
                task = asyncio.create_task(deal(delivery))
                dealing.add(task)
                task.add_done_callback(dealing.discard)

        working = [asyncio.create_task(read()), asyncio.create_task(self._hold())]
        try:
            while True:
                yield await handed_on.get()
        finally:
            await end(*working)
            await self.intake.drain()
            await end(*dealing)  # those that wait for another try
            for entry in self._in_hand - self._with_taskiq:
                await self.hand_back(entry)

    async def _deliveries(self) -> AsyncGenerator[_StreamDelivery, None]:
        """New entries, and those that a worker left."""
        cursor: Any = b"0-0"
        claim_at = 0.0
        while True:
            found: list[_StreamDelivery] = []
            try:
                async with Redis(connection_pool=self.connection_pool) as redis:
                    if (now := time.monotonic()) >= claim_at:
                        claim_at = now + _CLAIM_EVERY_S
                        cursor, found = await self._claim(redis, cursor)
                    if not found:  # else there may be no room for more
                        found = await self._read(redis)
            except REDIS_LOST as error:
                logger.warning("cannot read %s, trying again: %s", self.queue_name, error)
                await asyncio.sleep(_AGAIN_S)
                with contextlib.suppress(*REDIS_LOST):  # a new Redis, or flushed
                    await self._declare_consumer_group()
            for delivery in found:
                self._in_hand.add(delivery.entry)
            for delivery in found:
                yield delivery

    async def _read(self, redis: Redis) -> list[_StreamDelivery]:
        found: Any = await redis.xreadgroup(
            self.consumer_group_name,
            self.consumer_name,
            {self.queue_name: ">"},
            count=self.count,
            block=self.block,
        )
        entries = [each for _, several in found for each in several]
        return [_StreamDelivery(self, entry, fields) for entry, fields in entries]

    async def _claim(self, redis: Redis, cursor: Any) -> tuple[Any, list[_StreamDelivery]]:
        """Take over what nobody has said for a while that he has it."""
        cursor, entries, *_ = await redis.xautoclaim(
            self.queue_name,
            self.consumer_group_name,
            self.consumer_name,
            min_idle_time=self.idle_timeout,
            start_id=cursor,
            count=self.count,
        )
        claimed = []
        for entry, fields in entries:
            if not entry or fields is None or entry in self._in_hand:
                continue  # it was deleted, or is ours
            known: Any = await redis.xpending_range(
                self.queue_name, self.consumer_group_name, entry, entry, 1
            )
            times = known[0]["times_delivered"] if known else 1
            claimed.append(_StreamDelivery(self, entry, fields, times))
        return cursor, claimed

    async def _hold(self) -> None:
        """Say of what is in hand, now and then, that it is."""
        while True:
            await asyncio.sleep(self.idle_timeout / 1000 / _HELD_FOR)
            held: list[Any] = list(self._in_hand)
            try:
                async with Redis(connection_pool=self.connection_pool) as redis:
                    for first in range(0, len(held), _AT_ONCE):
                        await redis.xclaim(
                            self.queue_name,
                            self.consumer_group_name,
                            self.consumer_name,
                            0,
                            held[first : first + _AT_ONCE],
                            justid=True,  # and so not counted as a delivery
                        )
            except REDIS_LOST as error:
                logger.info("cannot hold entries of %s: %s", self.queue_name, error)

    async def acknowledge(self, entry: bytes) -> None:
        """Acknowledge and delete an entry."""
        self._in_hand.discard(entry)  # should it fail: it comes again, and its result is there
        self._with_taskiq.discard(entry)
        async with (
            Redis(connection_pool=self.connection_pool) as redis,
            redis.pipeline(transaction=True) as pipe,
        ):
            pipe.xack(self.queue_name, self.consumer_group_name, entry)
            pipe.xdel(self.queue_name, entry)
            await pipe.execute()

    async def hand_back(self, entry: bytes) -> None:
        """Leave an entry to whoever claims it next, as if it had not been delivered."""
        self._in_hand.discard(entry)
        with contextlib.suppress(*REDIS_LOST):  # it is claimed all the same, but later
            async with Redis(connection_pool=self.connection_pool) as redis:
                await redis.xclaim(
                    self.queue_name,
                    self.consumer_group_name,
                    self.consumer_name,
                    0,
                    [entry],
                    idle=self.idle_timeout,
                    retrycount=0,
                    justid=True,
                )

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
            await redis.xadd(f"{self.queue_name}{DEAD_LETTERS}", fields)
