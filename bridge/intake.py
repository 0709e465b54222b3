"""The one place that decides each message's fate.

Enters: deliveries, from whichever queue. Leaves: an acknowledgement once the result is saved, a
later try, a dead letter with its reason, a message handed back to its queue, or one handed on to
taskiq's own receiver. Works below taskiq's receiver, inside the broker's `listen`, so that the
plain `taskiq worker` command has it too. Must not know AMQP, Redis or Triton.

Tasks with a shortcut run here, as many at a time as the queue hands out: neither taskiq's limit
of concurrent tasks nor its bookkeeping stands between a message and its batch.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from taskiq import AsyncBroker, TaskiqMessage
from taskiq.exceptions import NoResultError

from bridge.background import cancel_once
from bridge.deliveries import Delivery, Dropped, Later, Shortcut, Turn
from bridge.endings import Endings, record
from bridge.errors import (
    BridgeError,
    Fate,
    InferenceTimeoutError,
    InvalidLabelError,
    MalformedMessageError,
    MessageTooLargeError,
    Outcome,
    PoisonousMessageError,
    TaskCancelledError,
    TaskExpiredError,
    UnknownTaskError,
    outcome_of,
)
from bridge.labels import waited_of
from bridge.log_lines import TASK_ID
from bridge.messages import read_labels
from bridge.observer import SILENT, Observer
from bridge.results import RedisResults
from bridge.settings import Settings
from bridge.stopping import told_to_stop
from bridge.turns import EXPIRED, Turns, counting, turn_of

logger = logging.getLogger("bridge.intake")

_AGAIN_S = 1.0
_CLOCKS_S = 0.1  # a timer, which has another clock, may go off a little before the deadline


class Intake:
    """Takes deliveries, runs those with a shortcut, and tells which are taskiq's."""

    def __init__(self, broker: AsyncBroker, results: RedisResults, settings: Settings) -> None:
        self.shortcuts: dict[str, Shortcut] = {}
        """Task name -> what runs it here; arguments are checked by the shortcut itself."""
        self.self_stopping: set[str] = set()
        """Names of those that look themselves for whether they are cancelled."""
        self.expiring: dict[str, Callable[[str], Awaitable[bool]]] = {}
        """Task name -> what decides whether a task whose deadline has passed expires, by its id;
        False: it has passed the point of no return, and is run to its end."""
        self.draining: list[Callable[[], None]] = []
        """Called when no further messages come, and what runs shall end soon."""
        self.endings = Endings(broker, results)
        self.observer: Observer = SILENT
        """Hears what becomes of messages."""
        self.cancelled = results.cancellations
        self.cancelled.listeners.append(self._stop)
        self._broker = broker
        self._results = results
        self._settings = settings
        self._turns = Turns(settings)
        self._running: set[asyncio.Task[Any]] = set()
        self._gives_back = False
        self._stoppable: dict[str, asyncio.Task[Any]] = {}

    @property
    def in_hand(self) -> int:
        """Deliveries that are being dealt with."""
        return len(self._running)

    def start(self) -> None:
        """Begin to hear of cancelled tasks; call it before the first `take`."""
        self._gives_back = False
        self.cancelled.start()

    async def take(self, delivery: Delivery) -> bool:
        """Deal with one delivery, in a task of its own.

        Returns:
            True if it is dealt with; False if taskiq's receiver shall run it.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in one
        self._running.add(task)
        self.observer.received(len(delivery.body))
        try:
            try:
                message = self._read(delivery)
            except (MalformedMessageError, MessageTooLargeError) as error:
                await self.endings.refuse(delivery, error)
            else:
                TASK_ID.set(message.task_id)
                return await self._take(message, delivery)
        except (Exception, asyncio.CancelledError) as error:
            if told_to_stop(error):
                raise
            logger.exception("a message was not dealt with, and will be delivered again")
            await asyncio.sleep(_AGAIN_S)
            await delivery.hand_back()
        finally:
            self._running.discard(task)
        return True

    def fail(
        self, message: TaskiqMessage, error: Exception, ack: Callable[[], Awaitable[None]]
    ) -> None:
        """End a task that taskiq's receiver was to run, and failed around it."""

        async def end() -> None:
            await self.endings.end(message, error)
            await ack()

        logger.error("taskiq failed around task %s", message.task_id, exc_info=error)
        task = asyncio.create_task(end())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def drain(self) -> None:
        """Wait for what runs; give up what still does when the time for it is over.

        What is given up stays unacknowledged, and its queue delivers it again.
        """
        for listener in self.draining:
            listener()
        if self._running:
            await asyncio.wait(self._running, timeout=self._settings.bridge_drain_timeout_s)
        left = [task for task in self._running if not task.done()]
        self._gives_back = True
        await cancel_once(*left)
        if left:
            logger.warning("%d tasks did not end in time; they go back to the queue", len(left))
            if self._settings.bridge_drain_report is not None:
                with self._settings.bridge_drain_report.open("a") as report:
                    report.write(f"{len(left)}\n")

    def _read(self, delivery: Delivery) -> TaskiqMessage:
        """Raises MalformedMessageError or MessageTooLargeError where it is no task."""
        message = self._broker.formatter.loads(delivery.body)
        read_labels(message)
        if self._results.refuses(message.task_id):
            raise MalformedMessageError("task_id cannot be the key of a result")
        return message

    async def _take(self, message: TaskiqMessage, delivery: Delivery) -> bool:
        if delivery.deliveries > 1:
            self.observer.redelivered(message)
        if (delivery.redelivered or delivery.attempt > 1) and await self._results.is_result_ready(
            message.task_id
        ):
            await self.endings.tell_again(message)
            await delivery.ack()  # it ended, and only its acknowledgement was lost
            if message.task_id in self.cancelled:  # or it was cancelled in the queue
                self.observer.ended(message, None, Outcome.CANCELLED, None)
            return True
        try:
            turn = self._turn(message, delivery)
        except (InvalidLabelError, TaskExpiredError, TaskCancelledError) as error:
            if await self._may_end(message, error):
                await self.endings.end(message, error)
                await delivery.ack()
                return True
            turn = turn_of(delivery, time.time())
        except PoisonousMessageError as error:
            await self.endings.give_up(message, delivery, error)
            return True
        if self.observer is not SILENT and delivery.deliveries == 1 and delivery.attempt == 1:
            waited_s = waited_of(message.labels, delivery.sent_at, time.time())
            self.observer.taken(message, waited_s)
        shortcut = self.shortcuts.get(message.task_name)
        if shortcut is not None:
            self.observer.begun(message)
            try:
                await self._run(message, shortcut, turn, delivery)
            finally:
                self.observer.left(message)
        elif self._broker.find_task(message.task_name) is not None:
            return False
        else:
            known = ", ".join(sorted(self._broker.get_all_tasks()))
            unknown = UnknownTaskError(
                f"no task is called {message.task_name[:128]!r} here; known are {known}. The "
                "message lies in the dead-letter queue"
            )
            await self.endings.give_up(message, delivery, unknown)
        return True

    def _turn(self, message: TaskiqMessage, delivery: Delivery) -> Turn:
        """What this try may take; raises as `Turns.next`, and TaskCancelledError."""
        if message.task_id in self.cancelled:
            raise TaskCancelledError("the task was cancelled before it ended")
        return self._turns.next(message, delivery)

    async def _may_end(self, message: TaskiqMessage, error: BridgeError) -> bool:
        asked = self.expiring.get(message.task_name)
        if asked is None or not isinstance(error, TaskExpiredError):
            return True
        return await asked(message.task_id)

    async def _run(
        self, message: TaskiqMessage, shortcut: Shortcut, turn: Turn, delivery: Delivery
    ) -> None:
        """Run a task once, and do with its message what the end of that asks for."""
        started = time.perf_counter()
        value, error = await self._outcome(message, shortcut, turn)
        if isinstance(value, Later | Dropped):
            await self._go_on(value, delivery)
            return
        if isinstance(error, PoisonousMessageError):  # a task in several messages counts itself
            await self.endings.give_up(message, delivery, error)
            return
        again = isinstance(error, BridgeError) and await self._again(message, error, turn, delivery)
        result = record(message, value, error, time.perf_counter() - started)
        if self._broker.middlewares:
            if error is not None and not again:  # taskiq's own retries would make another message
                await self.endings.tell("on_error", message, result, error)
            await self.endings.tell("post_execute", message, result)
        if again:
            return
        if isinstance(result.error, NoResultError):  # a middleware has sent the task again
            await delivery.ack()
            return
        await self.endings.save(message, result)
        if self._broker.middlewares:
            await self.endings.tell("post_save", message, result)
        await delivery.ack()
        self.observer.ended(message, value, outcome_of(error), time.perf_counter() - started)

    async def _again(
        self, message: TaskiqMessage, error: BridgeError, turn: Turn, delivery: Delivery
    ) -> bool:
        """Let a task come back, if what it met may pass; False: this is its end."""
        if error.fate is Fate.HAND_BACK:
            logger.info("handed back task %s: %s", message.task_id, error)
            if self._turns.nearly_too_many(delivery):
                await delivery.later(_AGAIN_S)
            else:
                await delivery.hand_back()
            return True
        wait_s = self._turns.wait_s(message, error, turn)
        if wait_s is None:
            return False
        logger.info("task %s again in %.1f s: %s", message.task_id, wait_s, error)
        await delivery.retry(wait_s, counting=counting(error))
        self.observer.retried(message, error)
        return True

    async def _go_on(self, value: Later | Dropped, delivery: Delivery) -> None:
        """A slice has ended, or could not begin; the task goes on with another message."""
        if isinstance(value, Dropped):
            await delivery.ack()
        elif value.instead is None:
            await delivery.later(value.wait_s)
        else:
            await self._broker.kick(self._broker.formatter.dumps(value.instead))
            await delivery.ack()

    async def _outcome(
        self, message: TaskiqMessage, shortcut: Shortcut, turn: Turn
    ) -> tuple[Any, Exception | None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in one
        if message.task_name not in self.self_stopping:
            self._stoppable[message.task_id] = task
        try:
            if self._broker.middlewares:
                message = await self.endings.before(message)
            return await shortcut(message, turn), None
        except asyncio.CancelledError:
            if self._gives_back or message.task_id not in self.cancelled:
                raise  # the worker stops
            task.uncancel()
            return None, TaskCancelledError("the task was cancelled while it ran")
        except InferenceTimeoutError as error:
            return None, TaskExpiredError(EXPIRED) if turn.left_s < _CLOCKS_S else error
        except NoResultError as error:  # it has none here
            return None, error
        except BridgeError as error:
            logger.info("task %s (%s): %s", message.task_id, message.task_name, error)
            return None, error
        except Exception as error:
            logger.exception("task %s (%s) failed", message.task_id, message.task_name)
            return None, error
        finally:
            self._stoppable.pop(message.task_id, None)

    def _stop(self, task_id: str, now: bool) -> None:  # noqa: ARG002, FBT001 - what listeners get
        task = self._stoppable.get(task_id)
        if task is not None:
            task.cancel()
