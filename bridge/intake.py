"""The one place that decides each message's fate.

Enters: deliveries, from whichever queue. Leaves: an acknowledgement once the result is saved, a
dead letter with its reason, or the message handed on to taskiq's own receiver. Works below
taskiq's receiver, inside the broker's `listen`, so that the plain `taskiq worker` command has it
too. Must not know AMQP, Redis or Triton.

Tasks with a shortcut run here, as many at a time as the queue hands out: neither taskiq's limit
of concurrent tasks nor its bookkeeping stands between a message and its batch.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from taskiq import AsyncBroker, TaskiqMessage, TaskiqResult
from taskiq.utils import maybe_awaitable

from bridge.errors import (
    BridgeError,
    MalformedMessageError,
    MessageTooLargeError,
    UnknownTaskError,
)
from bridge.messages import encode_result, read_labels
from bridge.results import REPLY_TO, RedisResults

logger = logging.getLogger("bridge.intake")

Shortcut = Callable[[TaskiqMessage], Awaitable[Any]]


class Delivery(Protocol):
    """One message as its queue delivered it."""

    @property
    def body(self) -> bytes:
        """What was sent."""
        ...

    @property
    def redelivered(self) -> bool:
        """It was delivered before, and never acknowledged."""
        ...

    async def ack(self) -> None:
        """It is dealt with."""
        ...

    async def dead_letter(self, reason: BridgeError) -> None:
        """Put it, with the reason, where a person can look at it; then it is dealt with."""
        ...


class Intake:
    """Takes deliveries, runs those with a shortcut, and tells which are taskiq's."""

    def __init__(self, broker: AsyncBroker, results: RedisResults) -> None:
        self.shortcuts: dict[str, Shortcut] = {}
        """Task name -> what runs it here; arguments are checked by the shortcut itself."""
        self._broker = broker
        self._results = results
        self._running: set[asyncio.Task[Any]] = set()

    async def take(self, delivery: Delivery) -> bool:
        """Deal with one delivery, in a task of its own.

        Returns:
            True if it is dealt with; False if taskiq's receiver shall run it.
        """
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
        try:
            return await self._take(delivery)
        except Exception:
            logger.exception("a message was not dealt with, and will be delivered again")
            return True
        finally:
            if task is not None:
                self._running.discard(task)

    async def drain(self, timeout_s: float) -> int:
        """Wait for what runs; give up what still does after `timeout_s` seconds.

        Returns:
            How many were given up. They stay unacknowledged: the queue delivers them again.
        """
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        left = [task for task in self._running if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)

    async def _take(self, delivery: Delivery) -> bool:
        try:
            message = self._broker.formatter.loads(delivery.body)
            read_labels(message)
            if self._results.refuses(message.task_id):
                raise MalformedMessageError("task_id cannot be the key of a result")  # noqa: TRY301
        except (MalformedMessageError, MessageTooLargeError) as error:
            logger.warning("dead-lettered a message that is no task: %s", error)
            await delivery.dead_letter(error)
            return True
        if delivery.redelivered and await self._results.is_result_ready(message.task_id):
            await delivery.ack()  # it ended, and only its acknowledgement was lost
            return True
        shortcut = self.shortcuts.get(message.task_name)
        if shortcut is not None:
            await self._run(message, shortcut)
        elif self._broker.find_task(message.task_name) is not None:
            return False
        else:
            await self._refuse(message, delivery)
            return True
        await delivery.ack()
        return True

    async def _run(self, message: TaskiqMessage, shortcut: Shortcut) -> None:
        """Run a task to a saved result. Returns only once the result is saved."""
        started = time.perf_counter()
        value: Any = None
        error: Exception | None = None
        try:
            message = await self._before(message)
            value = await shortcut(message)
        except BridgeError as expected:
            logger.info("task %s (%s): %s", message.task_id, message.task_name, expected)
            error = expected
        except Exception as unexpected:
            logger.exception("task %s (%s) failed", message.task_id, message.task_name)
            error = unexpected
        result: TaskiqResult[Any] = TaskiqResult.model_construct(
            is_err=error is not None,
            log=None,
            return_value=value,
            execution_time=round(time.perf_counter() - started, 6),
            labels=message.labels,
            error=error,
        )
        if error is not None:
            await self._tell("on_error", message, result, error)
        await self._tell("post_execute", message, result)
        data = encode_result(result)
        await self._results.save(message.task_id, data, message.labels.get(REPLY_TO))
        await self._tell("post_save", message, result)

    async def _refuse(self, message: TaskiqMessage, delivery: Delivery) -> None:
        """Dead-letter a task that nobody here knows, and let its caller hear of it."""
        known = ", ".join(sorted(self._broker.get_all_tasks()))
        error = UnknownTaskError(
            f"no task is called {message.task_name[:128]!r} here; known are {known}. The message "
            "lies in the dead-letter queue"
        )
        logger.warning("dead-lettered task %s: %s", message.task_id, error)
        await delivery.dead_letter(error)
        result: TaskiqResult[Any] = TaskiqResult.model_construct(
            is_err=True, return_value=None, execution_time=0.0, labels=message.labels, error=error
        )
        data = encode_result(result)
        await self._results.save(message.task_id, data, message.labels.get(REPLY_TO))

    async def _before(self, message: TaskiqMessage) -> TaskiqMessage:
        for middleware in self._broker.middlewares:
            message = await maybe_awaitable(middleware.pre_execute(message))
        return message

    async def _tell(self, hook: str, *arguments: Any) -> None:
        """Call a hook of every middleware; one that fails must not decide a message's fate."""
        if not self._broker.middlewares:
            return
        for middleware in reversed(self._broker.middlewares):
            try:
                await maybe_awaitable(getattr(middleware, hook)(*arguments))
            except Exception:
                logger.exception("%s of %s failed", hook, type(middleware).__name__)
