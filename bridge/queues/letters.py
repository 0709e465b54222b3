"""Dead letters: what one says of itself, and which of them a person means.

Enters: a body and what its queue's server keeps beside it. Leaves: a summary, small enough to be
kept in great numbers, and whoever holds the letters, behind one protocol. Must not know AMQP or
Redis.
"""

import contextlib
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from taskiq import TaskiqMessage

from bridge.errors import MalformedMessageError
from bridge.messages import Formatter
from bridge.names import DEAD_LETTERS

_POSITION = re.compile(r"(t?)([1-9][0-9]{0,8})", re.ASCII)
_LONGEST_NAME = 255
"""Bytes; AMQP has no longer name of a queue."""
# Written by us or by RabbitMQ, and wrong as soon as the letter is sent again.
_OF_THE_LETTER = (
    "x-bridge-",
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    "x-acquired-count",
)
# RabbitMQ sends a copy to each queue that these name; the first sending did so already.
_COPIES = frozenset({"CC", "BCC"})


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter without its body."""

    queue: str
    """The queue of dead letters in which it lies."""
    position: str
    """Its place there, from 1, behind the queue's own prefix; it moves when one before it goes."""
    key: Any
    """How its queue's server knows it, as long as it is held."""
    origin: str
    """The queue from which it came, and to which it is replayed."""
    size: int
    """Bytes of its body."""
    returned: int
    """How often RabbitMQ says that it was handed out and not acknowledged."""
    task_id: str | None = None
    task_name: str | None = None
    model: str | None = None
    error: str | None = None
    """Class of the error; None if RabbitMQ itself gave it up."""
    reason: str = ""
    time: datetime | None = None
    attempts: int | None = None
    malformed: str | None = None
    """Why its body is no task message; None if it is one."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One dead letter with all that belongs to it."""

    letter: Letter
    body: bytes
    headers: dict[str, Any]
    properties: Any = None
    """As its queue's server has them."""


class Letters(Protocol):
    """The dead letters of one queue, held from the first look until closed.

    What is neither replayed nor removed by then lies there as before, in the same order.
    """

    queue: str
    prefix: str
    """Of its positions."""

    async def count(self) -> int | None:
        """How many wait there; None: the queue does not exist."""
        ...

    def look(self) -> AsyncGenerator[Opened, None]:
        """Show each letter that is there now, oldest first; once only."""
        ...

    async def replay(self, opened: Opened) -> str | None:
        """Send one to where it came from; only once it is safe there, it is taken away here.

        Returns:
            Why it was not sent and still lies here; None: it was.
        """
        ...

    async def remove(self, letter: Letter) -> None:
        """Take one away for good."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those to which everything that is set applies."""

    names: frozenset[str] = frozenset()
    """Task ids and positions; what looks like a position is one."""
    reason: str | None = None
    """Part of the error's class or text, in whichever case."""
    model: str | None = None
    older_than_s: float | None = None
    newer_than_s: float | None = None

    @property
    def everything(self) -> bool:
        """Nothing is set."""
        return self == Selection()

    def takes(self, letter: Letter) -> bool:
        """Whether `letter` is meant."""
        if self.names and not self.named(letter):
            return False
        if self.reason is not None:
            told = f"{letter.error or ''}: {letter.reason}"
            if self.reason.casefold() not in told.casefold():
                return False
        if self.model is not None and letter.model != self.model:
            return False
        return self._takes_age(letter)

    def named(self, letter: Letter) -> frozenset[str]:
        """Those of the names that mean `letter`."""
        called = {letter.position}
        if letter.task_id is not None and not _POSITION.fullmatch(letter.task_id):
            called.add(letter.task_id)
        return self.names & called

    def _takes_age(self, letter: Letter) -> bool:
        if self.older_than_s is None and self.newer_than_s is None:
            return True
        age_s = seconds_since(letter.time)
        if age_s is None:
            return False
        return (self.older_than_s is None or age_s > self.older_than_s) and (
            self.newer_than_s is None or age_s < self.newer_than_s
        )


async def chosen(
    letters: Letters, selection: Selection, limit: int | None = None
) -> AsyncGenerator[Opened, None]:
    """Look for those that are meant.

    Args:
        letters: of one queue.
        selection: which.
        limit: how many at most.

    Yields:
        Each that is meant, oldest first.
    """
    if limit == 0:
        return
    found = 0
    looking = letters.look()
    async with contextlib.aclosing(looking):
        async for opened in looking:
            if not selection.takes(opened.letter):
                continue
            yield opened
            found += 1
            if found == limit:
                return


def read_letter(
    letters: Letters, number: int, key: Any, headers: Mapping[str, Any], body: bytes
) -> Letter:
    """What a letter says of itself, however broken it is.

    Args:
        letters: among which it lies.
        number: its place there, from 1.
        key: how its queue's server knows it.
        headers: what stands beside the body.
        body: as it was sent.
    """
    message, malformed = _message(body)
    error, reason, time = _cause(headers)
    attempts, returned = headers.get("x-bridge-attempts"), headers.get("x-delivery-count")
    return Letter(
        queue=letters.queue,
        position=f"{letters.prefix}{number}",
        key=key,
        origin=_queue(headers.get("x-bridge-queue")) or letters.queue.removesuffix(DEAD_LETTERS),
        size=len(body),
        returned=returned if isinstance(returned, int) else 0,
        task_id=message.task_id if message else _text(headers.get("task_id")),
        task_name=message.task_name if message else _text(headers.get("task_name")),
        model=_model(message) if message else None,
        error=error,
        reason=reason,
        time=time,
        attempts=attempts if isinstance(attempts, int) else None,
        malformed=malformed,
    )


def user_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as its sender wrote them."""
    return {
        name: value
        for name, value in headers.items()
        if not name.startswith(_OF_THE_LETTER) and name not in _COPIES
    }


def seconds_since(time: datetime | None) -> float | None:
    """Age; None if it is not known."""
    return None if time is None else (datetime.now(UTC) - time).total_seconds()


def _message(body: bytes) -> tuple[TaskiqMessage | None, str | None]:
    try:
        return Formatter().loads(body), None
    except MalformedMessageError as error:
        return None, str(error)


def _model(message: TaskiqMessage) -> str | None:
    if message.task_name != "ml_inference":
        return None
    model = message.args[0] if message.args else message.kwargs.get("model_id")
    return _text(model)


def _cause(headers: Mapping[str, Any]) -> tuple[str | None, str, datetime | None]:
    """Class, text and time of the last death: one that we told of, or one of RabbitMQ's own."""
    told = _time(headers.get("x-bridge-time"))
    ours = _text(headers.get("x-bridge-error")), _text(headers.get("x-bridge-reason")) or "", told
    deaths = headers.get("x-death")
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
        return ours
    died = _time(deaths[0].get("time"))
    if ours[0] is not None and told is not None and (died is None or died <= told):
        return ours
    return None, _text(deaths[0].get("reason")) or "", died


def _time(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        return datetime.fromtimestamp(float(value), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _queue(value: Any) -> str | None:
    name = _text(value)
    return name if name and len(name.encode(errors="replace")) <= _LONGEST_NAME else None


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, str) and value else None
