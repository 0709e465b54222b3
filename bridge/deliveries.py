"""What a message is to those who decide its fate, whichever queue it came from."""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from taskiq import TaskiqMessage

from bridge.errors import BridgeError


class Count(Enum):
    """What a try that is not the last one is counted as, beside being a try."""

    TRIES = "tries"
    CRASHES = "crashes"
    """It was there when its model's process died."""
    WAITS = "waits"
    """Its model was away, or it was others' turn."""


@dataclass(slots=True)  # not frozen: one or more are made for each message
class Turn:
    """One try of a task."""

    attempt: int = 1
    """Which one it is."""
    crashes: int = 0
    """How many of those before it were there when their model's process died."""
    waits: int = 0
    """How many of those before it found their model away, or others' turn."""
    deadline: float = math.inf
    """Unix time after which nobody wants the result."""

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()


@dataclass(frozen=True, slots=True)
class Later:
    """What a shortcut returns in place of a result: the task has not ended."""

    wait_s: float = 0.0
    """Seconds until the message comes back."""
    instead: TaskiqMessage | None = None
    """A message that takes its place, at the end of the queue."""


class Dropped:
    """What a shortcut returns in place of a result: another message is the task's now."""


Shortcut = Callable[[TaskiqMessage, Turn], Awaitable[Any]]
Appetite = Callable[[], int | None]
"""How many messages in hand can be used; 0: none, pause; None: nobody knows."""


class TellsWhatItGivesUp(Protocol):
    """`Endings` does."""

    given_up: list[Any]
    """Called with each task that it ends unrun, and its result."""


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

    @property
    def deliveries(self) -> int:
        """How often it was delivered, this time included, as far as the queue counts."""
        ...

    @property
    def attempt(self) -> int:
        """Which try of the task it is: one more than the `retry`s behind it."""
        ...

    @property
    def sent_at(self) -> float | None:
        """Unix time at which it was sent, if its sender said so."""
        ...

    async def ack(self) -> None:
        """It is dealt with."""
        ...

    @property
    def crashes(self) -> int:
        """How many tries before this one were there when their model's process died."""
        ...

    @property
    def waits(self) -> int:
        """How many tries before this one found their model away, or others' turn."""
        ...

    async def retry(self, wait_s: float, *, counting: Count) -> None:
        """Let it come back as the next attempt after so many seconds; then it is dealt with.

        Args:
            wait_s: until then.
            counting: what this try was.
        """
        ...

    async def later(self, wait_s: float) -> None:
        """Let it come back, as the same attempt, after so many seconds; then it is dealt with."""
        ...

    async def hand_back(self) -> None:
        """Put it back into its queue, as if it had not been delivered."""
        ...

    async def dead_letter(self, reason: BridgeError) -> None:
        """Put a copy, with the reason, where a person can look at it. It is still in hand."""
        ...
