"""What a client holds open: its queues, Redis, and the payload store.

Enters: settings, and a task's name and arguments. Leaves: tasks, sent and confirmed, and where
their results are waited for. Must not know what a task's arguments mean.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError
from taskiq.exceptions import SendTaskError
from taskiq.kicker import AsyncKicker

from bridge.client.replies import Replies, Waiter
from bridge.errors import BridgeError, QueueError
from bridge.labels import SENT_AT
from bridge.messages import CONTENT_TYPE, MSGPACK
from bridge.payloads import TAKES_REFERENCES, Payloads, open_payloads
from bridge.queues import Broker, Kind, build_broker
from bridge.queues.trouble import redis_trouble
from bridge.results import REPLY_TO
from bridge.settings import Settings

_CLOSE_S = 5.0  # RabbitMQ that is out of memory says no goodbye to who published
_MOST_TO_REDIS = 50  # for who cancels or trains many at a time; waiting takes two


class Connections:
    """Opened and closed as one, and used in the event loop in which they were opened."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is connected before `open`."""
        self._settings = settings
        self._brokers: dict[Kind, Broker] = {}
        # redis-py's usual pool refuses a hundred-first call instead of letting it wait.
        self.redis: Redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                settings.redis_connect_url, max_connections=_MOST_TO_REDIS
            )
        )
        self.replies = Replies(self.redis)
        self.payloads: Payloads | None = None
        """Where large arrays go; None: no store is set, or it is not open."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> None:
        """Connect to all.

        Raises:
            QueueError: RabbitMQ or Redis cannot be reached, or refuses the user.
            PayloadError: the store cannot be used.
        """
        self._loop = asyncio.get_running_loop()
        try:
            self.payloads = open_payloads(self._settings)
            await self.redis.ping()
            for kind in ("inference", "training"):
                broker = self._brokers[kind] = build_broker(self._settings, kind)
                await broker.startup()
            await self.replies.start()
        except RedisError as error:
            await self.close()
            raise redis_trouble(error, self._settings.redis_shown) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every one; what was sent goes on."""
        await self.replies.close()
        while self._brokers:
            _, broker = self._brokers.popitem()
            with contextlib.suppress(OSError, RuntimeError):  # an OSError: TimeoutError
                async with asyncio.timeout(_CLOSE_S):
                    await broker.shutdown()
        if self.payloads is not None:
            await self.payloads.close()
        await self.redis.aclose()
        self._loop = None

    def check_loop(self) -> None:
        """See that this is the event loop in which they were opened.

        What is of another loop waits there for ever, and what is told to it is lost.

        Raises:
            QueueError: it is another.
        """
        if self._loop not in (None, asyncio.get_running_loop()):
            raise QueueError(
                "the client was opened in another event loop, or before a fork: open one in each, "
                "or send this call to that loop by `asyncio.run_coroutine_threadsafe`"
            )

    def broker(self, kind: Kind) -> Broker:
        """The broker of one of the queues.

        Raises:
            QueueError: it is not open, or not here.
        """
        self.check_loop()
        try:
            return self._brokers[kind]
        except KeyError:
            raise QueueError(
                "the client is not connected: use it within `async with BridgeClient() as client:`"
            ) from None

    async def send(
        self,
        kind: Kind,
        task_name: str,
        args: tuple[Any, ...],
        labels: Mapping[str, Any] = MappingProxyType({}),
        task_id: str | None = None,
    ) -> tuple[str, Waiter]:
        """Put a task into a queue, and wait until the queue has confirmed it.

        Returns:
            Its id, and where its result will be pushed.

        Raises:
            QueueError: the queue did not take it.
            MessageTooLargeError: the queue would not take it.
        """
        task_id, broker = task_id or uuid.uuid4().hex, self.broker(kind)
        waiter = self.replies.expect(task_id)  # before the task can possibly end
        labels = {**labels, REPLY_TO: self.replies.token, SENT_AT: round(time.time(), 3)}
        if kind == "inference":  # tensors; a training's result stays readable to stock clients
            labels[CONTENT_TYPE] = MSGPACK
            if self.payloads is not None:
                labels[TAKES_REFERENCES] = "1"
        kicker: AsyncKicker[Any, Any] = AsyncKicker(task_name, broker, labels)
        try:
            await kicker.with_task_id(task_id).kiq(*args)
        except SendTaskError as error:
            cause = error.__cause__
        else:
            return task_id, waiter
        try:  # not above: each of the two would hold the other
            if isinstance(cause, BridgeError):
                raise cause
            raise QueueError(f"the queue did not take the task: {cause!r}") from cause
        finally:
            del cause  # as in `TaskHandle.result`
