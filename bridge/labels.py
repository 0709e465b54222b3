"""What a task's labels ask of those who run it.

Enters: labels, as any producer may have written them. Leaves: numbers that can be relied on.
"""

import math
from typing import Any

from taskiq import TaskiqMessage

from bridge.errors import InvalidLabelError

DEADLINE = "deadline"
"""Unix time, in seconds, after which nobody wants the result."""
TIMEOUT = "timeout"
"""taskiq's own: seconds that running the task may take."""
MAX_RETRIES = "max_retries"
"""taskiq's own: how often a task is tried again after an error that may pass."""
RETRY_ON_ERROR = "retry_on_error"
"""taskiq's own: false means never."""
PRIORITY = "priority"
"""taskiq's own: a training with a higher one goes first; 0 where it is missing."""
BATON = "bridge_baton"
"""Ours: the token under which a message that continues a task was written (`bridge.jobs`)."""

SENT_AT = "sent_at"
"""Ours: Unix time at which our client sent the task; nobody depends on it."""
DELAY = "delay"
"""taskiq's own: seconds to wait before the task begins."""

_FALSE = {"false", "0", "no", "off"}
_MOST_RETRIES = 1000
_MOST_PRIORITY = 255  # of AMQP
_MOST_DELAY_S = 1e9
_MOST_WAITED_S = 30 * 86_400.0  # longer, and the label was not a time


def waited_of(labels: dict[str, Any], sent_at: float | None, now: float) -> float | None:
    """Seconds that a task was in the queue when it came for the first time, or None.

    Args:
        labels: the task's.
        sent_at: Unix time, from the queue, where our own label is missing.
        now: Unix time.
    """
    try:
        sent_at = _number(labels, SENT_AT, least=0.0) or sent_at
        delay_s = delay_of(labels)
    except InvalidLabelError:
        return None
    if sent_at is None or BATON in labels:  # it goes on: only its first message was sent
        return None
    waited_s = max(0.0, now - sent_at - delay_s)  # clocks differ
    return waited_s if waited_s < _MOST_WAITED_S else None


def deadline_of(labels: dict[str, Any]) -> float | None:
    """The task's own deadline in Unix time, or None.

    Raises:
        InvalidLabelError: it is no point in time.
    """
    return _number(labels, DEADLINE, least=0.0)


def timeout_of(labels: dict[str, Any]) -> float | None:
    """Seconds that the task may run, or None.

    Raises:
        InvalidLabelError: not a positive number of seconds.
    """
    timeout_s = _number(labels, TIMEOUT, least=0.0)
    if timeout_s == 0:
        raise InvalidLabelError("label 'timeout' must be more than 0 seconds")
    return timeout_s


def retries_of(labels: dict[str, Any], default: int) -> int:
    """How often the task may be tried again.

    Raises:
        InvalidLabelError: not a whole number from 0 on.
    """
    if str(labels.get(RETRY_ON_ERROR, "true")).lower() in _FALSE:
        return 0
    asked = _number(labels, MAX_RETRIES, least=0.0)
    return default if asked is None else min(int(asked), _MOST_RETRIES)


def priority_of(labels: dict[str, Any]) -> int:
    """The task's priority, 0 to 255.

    Raises:
        InvalidLabelError: it is no such number.
    """
    found = _number(labels, PRIORITY, least=0.0)
    if found is not None and found > _MOST_PRIORITY:
        raise InvalidLabelError(f"label {PRIORITY!r} must be a number from 0 to {_MOST_PRIORITY}")
    return int(found or 0)


def baton_of(labels: dict[str, Any]) -> int:
    """The baton of a message; 0 for the one that its caller sent.

    Raises:
        InvalidLabelError: it is no number.
    """
    return int(_number(labels, BATON, least=0.0) or 0)


def continued(message: TaskiqMessage, baton: int | None = None) -> TaskiqMessage:
    """The message that takes this one's place; a delay that its caller asked for has passed."""
    labels = {name: value for name, value in message.labels.items() if name != DELAY}
    if baton is not None:
        labels[BATON] = baton
    return message.model_copy(update={"labels": labels})


def delay_of(labels: dict[str, Any]) -> float:
    """Seconds that the task waits before it begins.

    Raises:
        InvalidLabelError: not a number of seconds.
    """
    return min(_number(labels, DELAY, least=0.0) or 0.0, _MOST_DELAY_S)


def _number(labels: dict[str, Any], name: str, least: float) -> float | None:
    value = labels.get(name)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not least <= number < math.inf:
        raise InvalidLabelError(f"label {name!r} must be a number from {least:g} on: {value!r:.80}")
    return number
