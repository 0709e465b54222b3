"""Arguments and results as a dashboard may show them: small, and without tensors. Pure.

Enters: values from messages and results, of any size. Leaves: small values that JSON has. Looks at
a bounded part of each value, so that a large one costs no more than a small one.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from taskiq import TaskiqMessage, TaskiqResult

from bridge.errors import error_text
from bridge.results import REPLY_TO

_MOST_TEXT = 200
_MOST_ERROR = 1000
_MOST_ITEMS = 20
_MOST_DEPTH = 6
_MOST_DIMENSIONS = 10
_MOST_NAMES = 50
_MOST_PARTS = 200
_SECRET = re.compile(
    r"password|passwd|secret|token|api_?key|credential|authorization", re.IGNORECASE
)
_SAFE_INTEGER = 2**53
_INPUTS_AT = 1  # ml_inference(model_id, input_data, version)


def arguments(message: TaskiqMessage) -> tuple[list[Any], dict[str, Any]]:
    """A task's arguments: positional, and by keyword. Tensors are told by kind and shape."""
    args, kwargs = list(message.args[:_MOST_ITEMS]), dict(message.kwargs)
    if message.task_name == "ml_inference":
        if len(args) > _INPUTS_AT:
            args[_INPUTS_AT] = tensors(args[_INPUTS_AT])
        if "input_data" in kwargs:
            kwargs["input_data"] = tensors(kwargs["input_data"])
    return cut(args), cut(kwargs)


def labels(message: TaskiqMessage) -> dict[str, Any]:
    """A task's labels, but those that only machines read."""
    shown = {name: it for name, it in message.labels.items() if name != REPLY_TO}
    return _Cutter().mapping(shown, _MOST_DEPTH)


def outcome(message: TaskiqMessage, result: TaskiqResult[Any]) -> tuple[Any, str | None]:
    """A task's return value, and its error."""
    if result.error is not None:
        text = error_text(result.error, _MOST_ERROR)
        return None, f"{type(result.error).__name__}: {text}"
    value = result.return_value
    if message.task_name == "ml_inference" and isinstance(value, Mapping):
        value = {**value, "outputs": tensors(value.get("outputs"))}
    shown = cut(value)
    # The dashboard's page of a task fails where its result is anything but a dict.
    return (shown if isinstance(shown, dict) else {"value": shown}), None


def tensors(named: Any) -> Any:
    """By name, what each tensor is: its datatype where it is told, and its shape."""
    if not isinstance(named, Mapping):
        return _kind(named)
    first = list(named.items())[:_MOST_NAMES]
    return {_text(str(name)): _tensor(value) for name, value in first}


def cut(value: Any) -> Any:
    """A small copy of a value that JSON can hold. What is named like a secret is covered."""
    return _Cutter().cut(value, _MOST_DEPTH)


class _Cutter:
    """Of one value."""

    def __init__(self) -> None:
        self._left = _MOST_PARTS

    def cut(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if isinstance(value, str):
            return _text(value)
        if value is None or isinstance(value, bool | int | float):
            return _number(value)
        if depth and self._left > 0 and isinstance(value, Mapping):
            return self.mapping(value, depth)
        if depth and self._left > 0 and isinstance(value, list | tuple):
            items = [self.cut(item, depth - 1) for item in value[:_MOST_ITEMS]]
            left = len(value) - len(items)
            return [*items, f"... and {left:,} more"] if left else items
        return _kind(value)

    def mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, item in value.items():
            if len(found) == _MOST_NAMES:
                found["..."] = f"and {len(value) - _MOST_NAMES:,} more"
                break
            shown = _text(str(name))
            found[shown] = "***" if _SECRET.search(shown) else self.cut(item, depth - 1)
        return found


def _number(value: float | None) -> Any:
    """JSON has no infinity, and readers of JSON no large integers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or abs(value) < _SAFE_INTEGER:
        return value
    return _text(hex(value))  # decimal takes quadratic time


def _tensor(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _kind(value)
    where = " in the payload store" if "ref" in value else ""
    shape = value.get("shape")
    sizes = cut(list(shape[:_MOST_DIMENSIONS])) if isinstance(shape, list | tuple) else "?"
    return f"{_text(str(value.get('datatype', '?')))} {sizes}{where}"


def _kind(value: Any) -> str:
    """What kind of thing it is, and how large; nothing of what is in it."""
    if isinstance(value, list | tuple):
        return f"list {_shape(value)}"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value):,} bytes"
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} {list(shape)}" if shape is not None else type(value).__name__


def _shape(value: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list | tuple) and len(shape) < _MOST_DIMENSIONS:
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _text(value: str) -> str:
    clean = value[: _MOST_TEXT + 1].encode("utf-8", "replace").decode()
    return clean if len(value) <= _MOST_TEXT else f"{clean[:_MOST_TEXT]}... ({len(value):,})"
