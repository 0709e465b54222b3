"""Plain values <-> bytes, in JSON or msgpack. Pure.

Enters: bytes of any content. Leaves: lists, dicts, texts, numbers, bytes, or `ValueError`. Both
readers hold nesting to about a thousand levels and lengths to the bytes that are there; what is
bounded here besides is how many small objects few bytes can ask for.
"""

import json
import re
from typing import Any

import msgpack
import numpy as np
import orjson
from pydantic_core import to_jsonable_python

_MOST_CONTAINERS = 2**21
"""Lists and objects in one message: two bytes can ask for one, which takes a hundred in memory."""

_JSON_STARTS = (b"{", b" ", b"\n", b"\t", b"\r", b"[", b'"')
# A text without its end reaches to the end: what is tried twice would take quadratic time.
_JSON_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)

_MANY_DIGITS = re.compile(rb"\d{19}")


def is_json(data: bytes) -> bool:
    """Whether the first byte is of JSON; no object of msgpack's begins so."""
    return data[:1] in _JSON_STARTS


def pack(value: Any, *, binary: bool, wide: bool = False) -> bytes:
    """Write a value; numpy's and pydantic's as plain ones.

    Args:
        value: keys of its dicts become text in JSON.
        binary: in msgpack.
        wide: let integers of more than 64 bits be, in JSON; who reads quickly rounds them.

    Raises:
        TypeError, ValueError, OverflowError: the format has no such value.
    """
    if binary:
        packed: bytes = msgpack.packb(value, default=_plain)
        return packed
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # a key that is no text, an integer of more than 64 bits, or what is none
        plain = to_jsonable_python(value, fallback=_plain, inf_nan_mode="null")
        if not wide:
            return orjson.dumps(plain)
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def unpack(data: bytes, *, bounded: bool = False, exact: bool = False) -> Any:
    """Read a value in either format.

    Args:
        data: anything.
        bounded: a stranger wrote it.
        exact: it may have keys that are no text, and integers of more than 64 bits. Slower.

    Raises:
        ValueError: neither JSON nor msgpack, or too many lists and objects.
    """
    bounded = bounded and len(data) > _MOST_CONTAINERS  # each takes a byte
    try:
        if not is_json(data):
            count = _Count() if bounded else None
            return msgpack.unpackb(
                data,
                list_hook=count,
                object_hook=count,
                ext_hook=_no_extension,
                timestamp=1,
                strict_map_key=not exact,
            )
        if bounded and _brackets(data) > _MOST_CONTAINERS:
            raise _crowded()
        if exact and _MANY_DIGITS.search(data):
            return json.loads(data)  # orjson makes a float of what is too wide
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            return json.loads(data)  # Python writes NaN, which strict JSON has not
    except (RecursionError, TypeError, msgpack.UnpackException) as error:  # TypeError: of a key
        raise ValueError(str(error) or "nested too deeply") from None


def check_readable(data: bytes) -> None:
    """Refuse what was written well, and `unpack` would not take from a stranger.

    Raises:
        ValueError: too many lists and objects, or, in msgpack, a key that is no text.
    """
    if not is_json(data):
        unpack(data, bounded=True)
    elif len(data) > _MOST_CONTAINERS and _brackets(data) > _MOST_CONTAINERS:
        raise _crowded()


class _Count:
    """Passes on the lists and dicts that msgpack made, as long as there are not too many."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _MOST_CONTAINERS

    def __call__(self, made: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _crowded()
        return made


def _no_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"extension type {code} of msgpack's is not read")


def _brackets(data: bytes) -> int:
    """At least as many as there are lists and objects; exact where there seem to be many."""
    found = data.count(b"[") + data.count(b"{")
    if found > _MOST_CONTAINERS:
        texts = (match[0] for match in _JSON_TEXT.finditer(data))
        found -= sum(text.count(b"[") + text.count(b"{") for text in texts)
    return found


def _crowded() -> ValueError:
    return ValueError(
        f"it holds more than {_MOST_CONTAINERS:,} lists and objects; send tensors as 'data' or "
        "'raw'"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return to_jsonable_python(value)
