"""How a dead letter looks: in a row, as a whole, as JSON. What it holds may be anything.

A terminal obeys escape sequences, and whoever can send a message chose these texts: nothing of a
letter is printed but printable characters.
"""

from datetime import datetime
from itertools import islice
from typing import Any

from rich.filesize import decimal

from bridge.errors import MalformedMessageError
from bridge.messages import Formatter
from bridge.queues.letters import Letter, Opened, seconds_since, user_headers

_REASON, _TEXT, _LONG_TEXT, _BYTES = 120, 300, 2000, 256
_ITEMS, _ROW, _DEPTH = 20, 6, 12
_INTEGERS = 2**63  # orjson writes no larger ones
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def as_row(letter: Letter) -> tuple[str, ...]:
    """Its line in a table: position, task, why, age, attempts, size."""
    task = (letter.task_id, letter.task_name, letter.model and f"model {letter.model}")
    why = (letter.error, cut_text(letter.reason, _REASON))
    return (
        letter.position,
        "\n".join(cut_text(part, _REASON) for part in task if part) or "(not readable)",
        "\n".join(cut_text(part, _REASON) for part in why if part) or "(not told)",
        age(letter),
        "" if letter.attempts is None else str(letter.attempts),
        decimal(letter.size),
    )


def as_json(letter: Letter) -> dict[str, Any]:
    """Its fields, for machines."""
    age_s = seconds_since(letter.time)
    fields = {
        "position": letter.position,
        "task_id": letter.task_id,
        "task_name": letter.task_name,
        "model": letter.model,
        "reason": letter.reason,
        "error": letter.error,
        "time": letter.time and letter.time.isoformat(),
        "age_s": age_s and round(age_s, 1),
        "attempts": letter.attempts,
        "size": letter.size,
        "queue": letter.queue,
        "origin": letter.origin,
        "malformed": letter.malformed,
    }
    return {
        name: cut_text(value, _LONG_TEXT) if isinstance(value, str) else value
        for name, value in fields.items()
    }


def as_whole(opened: Opened) -> dict[str, Any]:
    """Everything of one, the long parts cut."""
    whole = as_json(opened.letter)
    whole["headers"] = cut(opened.headers)
    whole["sent_again_with_headers"] = cut(user_headers(opened.headers))
    try:
        message = Formatter().loads(opened.body)
    except MalformedMessageError:
        return {**whole, "body": cut(opened.body)}
    return {
        **whole,
        "labels": cut(message.labels),
        "args": cut(message.args),
        "kwargs": cut(message.kwargs),
    }


def age(letter: Letter) -> str:
    """How long ago it was given up."""
    age_s = seconds_since(letter.time)
    if age_s is None:
        return ""
    for unit, seconds in _UNITS:
        if age_s >= seconds:
            return f"{int(age_s // seconds)} {unit}"
    return f"{max(0, int(age_s))} s"


def cut(value: Any, depth: int = _DEPTH) -> Any:
    """A value as JSON can have it and a person read it: few of many, no bytes.

    Args:
        value: as a message or a header holds it.
        depth: levels below it that are shown.
    """
    if value is None or (isinstance(value, (int, float)) and _fits(value)):
        return value
    if isinstance(value, bytes):
        return cut_bytes(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, dict):
        return _cut_dict(value, depth)
    if isinstance(value, (list, tuple)):
        return _cut_list(value, depth)
    return cut_text(str(value), _TEXT)


def cut_bytes(value: bytes) -> str:
    """Text where it is text, else escapes; the beginning, and how much there is."""
    shown = ascii(value[:_BYTES])[2:-1]
    return shown if len(value) <= _BYTES else f"{shown}... ({len(value):,} bytes)"


def cut_text(text: str, most: int) -> str:
    """The beginning, with escapes for what is not printable, and how much there is."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[:most]
    )
    return shown if len(text) <= most else f"{shown}... ({len(text):,} characters)"


def _fits(value: float) -> bool:
    return isinstance(value, float) or abs(value) < _INTEGERS


def _cut_dict(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    if not depth:
        return {"...": f"{len(value):,} entries"}
    shown = {
        cut_text(key if isinstance(key, str) else repr(key), _TEXT): cut(item, depth - 1)
        for key, item in islice(value.items(), _ITEMS)
    }
    if len(value) > _ITEMS:
        shown["..."] = f"{len(value):,} entries in all"
    return shown


def _cut_list(value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
    """Of rows and numbers a few are enough, and always their count."""
    if not depth:
        return [f"... {len(value):,} items"]
    shown = [cut(item, depth - 1) for item in value[:_ROW]]
    if len(value) > _ROW:
        shown.append(f"... {len(value):,} in all")
    return shown
