"""Messages that taskiq's receiver runs, and what becomes of them if it comes to no end.

Enters: a message that the intake leaves to taskiq. Leaves: word of an error that a middleware or
a label raised around the task: taskiq's receiver then drops the message without a result, and
without an acknowledgement.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from taskiq import AckableMessage, TaskiqMessage

from bridge.errors import TaskFailedError
from bridge.log_lines import TASK_ID
from bridge.messages import Formatter

Ack = Callable[[], Awaitable[None]]
Fail = Callable[[TaskiqMessage, Exception, Ack], None]


class _HandedOn(bytes):
    """A message's body, with what to do about it."""

    ack: Ack
    fail: Fail
    acked = False

    async def ack_once(self) -> None:
        """A label may have had it acknowledged before it failed."""
        if not self.acked:
            self.acked = True
            await self.ack()


class WatchingFormatter(Formatter):
    """Reads messages. The receiver reads one in the very task that then runs it."""

    def loads(self, message: bytes) -> TaskiqMessage:
        """Read a message; see that its end is known if it was handed on.

        Raises:
            MalformedMessageError, MessageTooLargeError: as `Formatter`.
        """
        if not isinstance(message, _HandedOn):
            return super().loads(message)
        read = super().loads(bytes(message))  # orjson takes no subclass
        running = asyncio.current_task()
        if running is not None:
            TASK_ID.set(read.task_id)
            running.add_done_callback(partial(_over, message, read))
        return read


def _over(body: _HandedOn, message: TaskiqMessage, running: "asyncio.Task[None]") -> None:
    if not running.cancelled():
        error = running.exception()
    elif running.cancelling():  # the worker stops
        return
    else:
        error = TaskFailedError(
            "CancelledError: raised by a middleware, though nobody asked for it"
        )
    if isinstance(error, Exception):
        body.fail(message, error, body.ack_once)


def hand_on(body: bytes, ack: Ack, fail: Fail) -> AckableMessage:
    """What `listen` yields.

    Args:
        body: of the message.
        ack: called once, when the task is done.
        fail: called if the receiver fails around it; is to call what it is given instead of `ack`.
    """
    message = _HandedOn(body)
    message.ack, message.fail = ack, fail
    return AckableMessage.model_construct(data=message, ack=message.ack_once)
