"""What one try of a task may take, and whether there is another. No I/O.

Enters: a task, its delivery and what it met. Leaves: a `Turn`, or why there is none; the seconds
until the next one, and what the last is counted as.
"""

import math
import time

from taskiq import TaskiqMessage

from bridge.deliveries import Count, Delivery, Turn
from bridge.errors import (
    BackendCrashedError,
    BridgeError,
    InvalidLabelError,
    ModelUnavailableError,
    PoisonousMessageError,
    TaskExpiredError,
)
from bridge.labels import deadline_of, retries_of
from bridge.retries import Retries
from bridge.settings import Settings

EXPIRED = "the task's deadline passed before it ended"


class Turns:
    """Of all tasks of a queue."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is decided yet.

        Args:
            settings: deadlines, limits and waits where a task's labels ask for none.
        """
        self._settings = settings
        self._retries = Retries(
            first_s=settings.bridge_retry_first_s, longest_s=settings.bridge_retry_longest_s
        )

    def next(self, message: TaskiqMessage, delivery: Delivery) -> Turn:
        """What this try may take.

        Raises:
            TaskExpiredError, PoisonousMessageError: nothing any more.
            InvalidLabelError: a label says nonsense about it.
        """
        if delivery.deliveries > self._settings.bridge_delivery_limit:
            raise PoisonousMessageError(
                f"the message was delivered {delivery.deliveries} times, and no worker came to an "
                "end with it; it lies in the dead-letter queue"
            )
        deadline = deadline_of(message.labels)
        if deadline is None and self._settings.bridge_deadline_s is not None:
            deadline = (delivery.sent_at or time.time()) + self._settings.bridge_deadline_s
        if deadline is None:
            return turn_of(delivery)
        if deadline <= time.time():
            raise TaskExpiredError(EXPIRED)
        return turn_of(delivery, deadline)

    def wait_s(self, message: TaskiqMessage, error: BridgeError, turn: Turn) -> float | None:
        """Seconds until the next try after one that met an error; None: there is none."""
        try:
            most = retries_of(message.labels, self._settings.bridge_max_retries)
        except InvalidLabelError:
            most = 0
        tries = {
            Count.CRASHES: turn.crashes + 1,
            Count.WAITS: turn.waits + 1,
            Count.TRIES: turn.attempt - turn.waits,
        }
        return self._retries.wait_s(error, tries[counting(error)], turn.left_s, most=most)

    def nearly_too_many(self, delivery: Delivery) -> bool:
        """Whether it must not be handed back for others' sake: some queues count that."""
        return delivery.deliveries * 2 > self._settings.bridge_delivery_limit


def turn_of(delivery: Delivery, deadline: float = math.inf) -> Turn:
    """The try that a delivery is."""
    return Turn(delivery.attempt, delivery.crashes, delivery.waits, deadline)


def counting(error: BridgeError) -> Count:
    """Which budget of tries an error takes from: waiting must not use up that of other errors."""
    if isinstance(error, BackendCrashedError):
        return Count.CRASHES
    return Count.WAITS if isinstance(error, ModelUnavailableError) else Count.TRIES
