"""Dead letters on RabbitMQ.

Enters: a connection, a queue's name. Leaves: its letters, held unacknowledged on one channel, so
that they go back when it is closed, whoever closes it.

To go back in order, all of them must be held, also where a few are wanted: a quorum queue puts what
comes back behind what came back before. What one consumer had keeps its order; of several, those
with the lower tags come first. `basic.get` and `basic.nack` would shuffle.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import aiormq.exceptions
from aio_pika.abc import AbstractConnection
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from bridge.errors import QueueError
from bridge.names import DEAD_LETTERS
from bridge.queues.depths import ready_messages
from bridge.queues.letters import Letter, Letters, Opened, read_letter, user_headers
from bridge.queues.reach import reach_rabbitmq
from bridge.settings import Settings

# RabbitMQ reads as many letters at once as a consumer may have unacknowledged, and so do we:
# few at first, then as many as should have about so many bytes, but not at once very many more.
_AT_FIRST, _MORE = 16, 4
_BYTES_AT_ONCE = 64 * 2**20
_AT_MOST = 65_535
_REPLY_S = 10.0
_PUBLISH_S = 30.0
_SILENCE_S, _SILENCES = 1.0, 10
_RETURNED_EVERY_S, _RETURNED_ASKS = 0.02, 250


@dataclass(slots=True)
class _Held:
    """The channel on which letters are held, and what became of them."""

    channel: Any
    inbox: asyncio.Queue[DeliveredMessage]
    delivered: int = 0
    removed: int = 0
    consumers: int = 0


class RabbitLetters:
    """The dead letters of one queue of RabbitMQ's."""

    def __init__(self, connection: AbstractConnection, queue: str, prefix: str) -> None:
        """Nothing is held before the first `look`.

        Args:
            connection: closed by its owner, after `close`.
            queue: of dead letters.
            prefix: of their positions.
        """
        self.queue = queue
        self.prefix = prefix
        self._connection = connection
        self._held: _Held | None = None
        self._deliveries: AsyncGenerator[DeliveredMessage, None]
        self._outgoing: Any = None
        self._opening = asyncio.Lock()
        self._named = asyncio.Lock()

    async def count(self) -> int | None:
        """How many wait there, held by nobody; None: the queue does not exist."""
        return await ready_messages(self._connection, self.queue)

    async def look(self) -> AsyncGenerator[Opened, None]:
        """Show each letter that is there now, oldest first; once only."""
        there = await self.count() or 0
        channel = await self._connection.channel(publisher_confirms=False)
        held = self._held = _Held(await channel.get_underlay_channel(), asyncio.Queue())
        self._deliveries = self._all(held, there)
        number = 0
        async for message in self._deliveries:
            number += 1
            properties = message.header.properties
            headers: dict[str, Any] = dict(properties.headers or {})
            letter = read_letter(self, number, message.delivery_tag, headers, message.body)
            yield Opened(letter, message.body, headers, properties)

    async def replay(self, opened: Opened) -> str | None:
        """Publish a copy to where it came from, and acknowledge once RabbitMQ has confirmed it.

        The default exchange is what reaches a queue by its name, whatever it is bound to.
        """
        properties: Basic.Properties = opened.properties
        properties.headers = user_headers(opened.headers)
        properties.delivery_mode = 2
        properties.user_id = None  # RabbitMQ takes only the publisher's own
        # aiormq knows which message was returned by this id alone: never two of one at a time.
        alone = self._named if properties.message_id else contextlib.nullcontext()
        channel = await self._publisher()
        try:
            async with alone:
                await channel.basic_publish(
                    opened.body,
                    routing_key=opened.letter.origin,
                    properties=properties,
                    mandatory=True,
                    timeout=_PUBLISH_S,
                )
        except aiormq.exceptions.PublishError:
            return f"there is no queue {opened.letter.origin}"
        except aiormq.exceptions.DeliveryError:
            return f"{opened.letter.origin} does not take it: is the queue full?"
        await self.remove(opened.letter)
        return None

    async def remove(self, letter: Letter) -> None:
        """Acknowledge it."""
        if self._held is None:
            raise QueueError("look at a letter before taking it away")
        await self._held.channel.basic_ack(letter.key)
        self._held.removed += 1

    async def close(self) -> None:
        """Let go of what is held, and wait until it lies in the queue again."""
        held, self._held = self._held, None
        if held is None:
            return
        async for _ in self._deliveries:  # hold also what nobody looked at, for the order's sake
            pass
        await held.channel.close()
        left = held.delivered - held.removed
        for _ in range(_RETURNED_ASKS):
            if (await self.count() or 0) >= left:
                return
            await asyncio.sleep(_RETURNED_EVERY_S)

    async def _all(self, held: _Held, there: int) -> AsyncGenerator[DeliveredMessage, None]:
        """Have so many delivered, a window at a time."""
        seen = size = 0
        while seen < there:
            window = min(_next_window(seen, size), there - seen)
            consumer, taken = await self._consume(held, window), 0
            while seen < there and (taken < window or not held.inbox.empty()):
                message = await self._next(held)
                if message is None:
                    return  # somebody else took the rest
                taken, seen, size = taken + 1, seen + 1, size + len(message.body)
                if taken == window:
                    await held.channel.basic_cancel(consumer, timeout=_REPLY_S)
                yield message

    async def _consume(self, held: _Held, window: int) -> str:
        async def receive(message: DeliveredMessage) -> None:
            held.delivered += 1
            held.inbox.put_nowait(message)

        held.consumers += 1
        tag = f"mlbridge-dlq-{held.consumers:06}"
        await held.channel.basic_qos(prefetch_count=window, timeout=_REPLY_S)
        await held.channel.basic_consume(self.queue, receive, consumer_tag=tag, timeout=_REPLY_S)
        return tag

    async def _next(self, held: _Held) -> DeliveredMessage | None:
        """The next delivery; None if none is left."""
        for _ in range(_SILENCES):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SILENCE_S):
                    return await held.inbox.get()
            # Answered on the channel of the deliveries: those that were under way came before it.
            there = await held.channel.queue_declare(self.queue, passive=True)
            if not there.message_count and held.inbox.empty():
                return None
        raise QueueError(
            f"RabbitMQ does not hand out all that waits in {self.queue}: is the queue's leader up, "
            "or does a consumer have it for itself?"
        )

    async def _publisher(self) -> Any:
        async with self._opening:
            if self._outgoing is None:
                channel = await self._connection.channel(on_return_raises=True)
                self._outgoing = await channel.get_underlay_channel()
        return self._outgoing


def _next_window(seen: int, size: int) -> int:
    """How many letters to have at once, after `seen` with `size` bytes."""
    if not seen:
        return _AT_FIRST
    return max(1, min(_BYTES_AT_ONCE * seen // max(size, 1), _MORE * seen, _AT_MOST))


@contextlib.asynccontextmanager
async def rabbit_letters(
    settings: Settings, queues: Iterable[tuple[str, str]]
) -> AsyncIterator[list[Letters]]:
    """The dead letters of several queues, held until the block ends.

    Args:
        settings: where RabbitMQ is.
        queues: name of each queue, and the prefix of its letters' positions.

    Raises:
        QueueError: RabbitMQ cannot be reached, or went away.
    """
    async with reach_rabbitmq(settings) as connection:
        opened = [
            RabbitLetters(connection, f"{queue}{DEAD_LETTERS}", prefix) for queue, prefix in queues
        ]
        try:
            yield list(opened)
        finally:
            if not connection.is_closed:
                for letters in opened:
                    await letters.close()
