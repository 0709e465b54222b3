"""Writes down how tasks end, and tells those who listen.

Enters: tasks, and what came of them. Leaves: one record each, middlewares that were called, dead
letters. Must not know which end a task comes to, nor why: `intake` decides that.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from taskiq import AsyncBroker, TaskiqMessage, TaskiqResult
from taskiq.utils import maybe_awaitable

from bridge.deliveries import Delivery
from bridge.errors import BridgeError, MalformedMessageError, TaskCancelledError, outcome_of
from bridge.labels import RETRY_ON_ERROR
from bridge.messages import encode_result
from bridge.observer import SILENT, Observer
from bridge.results import REPLY_TO, RedisResults
from bridge.stopping import told_to_stop

logger = logging.getLogger("bridge.intake")


class Endings:
    """Of the tasks of one broker."""

    def __init__(self, broker: AsyncBroker, results: RedisResults) -> None:
        self.given_up: list[Callable[[TaskiqMessage, TaskiqResult[Any]], Any]] = []
        """Called with each dead-lettered task, which middlewares do not hear of."""
        self.observer: Observer = SILENT
        """Hears what becomes of messages."""
        self._broker = broker
        self._results = results

    async def before(self, message: TaskiqMessage) -> TaskiqMessage:
        """Call `pre_execute` of every middleware; returns what they make of the message."""
        for middleware in self._broker.middlewares:
            message = await maybe_awaitable(middleware.pre_execute(message))
        return message

    async def tell(self, hook: str, *arguments: Any) -> None:
        """Call a hook of every middleware; one that fails must not decide a message's fate."""
        for middleware in reversed(self._broker.middlewares):
            try:
                await maybe_awaitable(getattr(middleware, hook)(*arguments))
            except (Exception, asyncio.CancelledError) as error:
                if told_to_stop(error):
                    raise
                logger.exception("%s of %s failed", hook, type(middleware).__name__)

    async def tell_again(self, message: TaskiqMessage) -> None:
        """Where its worker ended before middlewares heard that the result is saved, none would.

        The next step of a pipeline, for one, is sent by `post_save`.
        """
        result = await self._results.kept(message.task_id) if self._broker.middlewares else None
        if result is None:
            return
        if isinstance(result.error, TaskCancelledError):  # by who cancelled it: it may not have run
            await self._tell_of_end(message, result, result.error)
        await self.tell("post_save", message, result)

    async def end(self, message: TaskiqMessage, error: Exception) -> None:
        """Record the end of a task that does not run any more."""
        logger.info("task %s: %s", message.task_id, error)
        result = record(message, None, error, 0.0)
        await self._tell_of_end(message, result, error)
        await self.save(message, result)
        await self.tell("post_save", message, result)  # its payloads have had their day
        self.observer.ended(message, None, outcome_of(error), None)

    async def give_up(self, message: TaskiqMessage, delivery: Delivery, error: BridgeError) -> None:
        """Dead-letter a task, and let its caller hear of it."""
        logger.warning("dead-lettered task %s: %s", message.task_id, error)
        await self._dead_letter(delivery, error)
        result = record(message, None, error, 0.0)
        await self.save(message, result)
        for listener in self.given_up:
            await maybe_awaitable(listener(message, result))
        await delivery.ack()
        self.observer.ended(message, None, outcome_of(error), None)

    async def refuse(self, delivery: Delivery, error: BridgeError) -> None:
        """Dead-letter what is no task; whoever waits under an id that it has is told."""
        logger.warning("dead-lettered a message that is no task: %s", error)
        await self._dead_letter(delivery, error)
        task_id = error.task_id if isinstance(error, MalformedMessageError) else None
        if task_id is not None and not self._results.refuses(task_id):
            message = TaskiqMessage(task_id=task_id, task_name="", labels={}, args=[], kwargs={})
            await self.save(message, record(message, None, error, 0.0))
        await delivery.ack()

    async def save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Returns only once the task has a record: this one, or one that came first."""
        token, value = message.labels.get(REPLY_TO), encode_result(result)
        started = time.perf_counter()
        await self._results.save(message.task_id, value, token)
        self.observer.saved(len(value), time.perf_counter() - started)

    async def _tell_of_end(
        self, message: TaskiqMessage, result: TaskiqResult[Any], error: Exception
    ) -> None:
        """Copies: nobody shall send it again, nor keep its record from it."""
        last = message.model_copy(update={"labels": {**message.labels, RETRY_ON_ERROR: False}})
        await self.tell("on_error", last, result.model_copy(), error)

    async def _dead_letter(self, delivery: Delivery, error: BridgeError) -> None:
        await delivery.dead_letter(error)
        self.observer.dead_lettered(error)


def record(
    message: TaskiqMessage, value: Any, error: Exception | None, took_s: float
) -> TaskiqResult[Any]:
    """What a task's end is to those who read its result."""
    return TaskiqResult.model_construct(
        is_err=error is not None,
        log=None,
        return_value=value,
        execution_time=round(took_s, 6),
        labels=message.labels,
        error=error,
    )
