"""Headers of messages that somebody else published: read and copied without harm.

Enters: what RabbitMQ delivers. Leaves: headers that can be written again. The AMQP library ends
the connection over a header that it cannot read (a date beyond the year 9999, a name that is not
UTF-8); RabbitMQ would deliver it again, and no worker would ever come to another message. It also
takes quadratic time for long ones. No task needs headers: what cannot be read is left out. Most
messages' are not looked at at all, so they are read when somebody asks for them, which is seldom.
"""

import math
import struct
from typing import Any

import pamqp.commands
import pamqp.encode
import pamqp.header
from aiormq.abc import DeliveredMessage

Headers = dict[str, Any]

_MOST_BYTES = 32 * 1024
"""Of a message's properties; a frame holds 128 KiB, and the reason of a dead letter besides."""
_NOTE = "x-bridge-headers"
# RabbitMQ sends a copy of the message to each queue that they name.
_ROUTING = {"cc", "bcc"}
_UNREAD, _READ = "_bridge_unread", "_bridge_properties"


_read = pamqp.header.ContentHeader.unmarshal


def _read_if_possible(header: pamqp.header.ContentHeader, data: bytes) -> None:
    """The library's `unmarshal`; puts a note where properties cannot be read."""
    why = f"{len(data):,} bytes, at most {_MOST_BYTES:,} are read"
    if len(data) <= _MOST_BYTES:
        try:
            _read(header, data)
        except Exception as error:  # noqa: BLE001 - of any kind; the body is none the worse
            why = f"{type(error).__name__}: {error}"[:200]
        else:
            return
    header.class_id, header.weight, header.body_size = struct.unpack(">HHQ", data[:12])
    header.properties = pamqp.commands.Basic.Properties(headers={_NOTE: f"left out: {why}"})


def _keep(header: pamqp.header.ContentHeader, data: bytes) -> None:
    """In place of the library's `unmarshal`: read the size of the body alone."""
    header.class_id, header.weight, header.body_size = struct.unpack(">HHQ", data[:12])
    header.__dict__[_UNREAD] = data


def _properties(header: pamqp.header.ContentHeader) -> Any:
    unread = header.__dict__.pop(_UNREAD, None)
    if unread is not None:
        _read_if_possible(header, unread)
    return header.__dict__[_READ]


def _set_properties(header: pamqp.header.ContentHeader, value: Any) -> None:
    header.__dict__[_READ] = value


def bear_with_headers() -> None:
    """From now on let no message's properties end a connection of this process."""
    library: Any = pamqp.header.ContentHeader
    library.unmarshal = _keep
    library.properties = property(_properties, _set_properties)


def header_of(message: DeliveredMessage, name: str) -> Any:
    """The value of a header, or None; where its name is nowhere, nothing is read."""
    unread = message.header.__dict__.get(_UNREAD)
    if unread is not None and name.encode() not in unread:
        return None
    return (message.header.properties.headers or {}).get(name)


def copied(headers: Headers) -> Headers:
    """Headers, or labels to be some, that somebody else wrote: what can be written and no more.

    Left out are those that would have RabbitMQ send copies; and, for a note, all of them where
    they have no form in AMQP or are too long for a frame. NaN and infinity become texts: RabbitMQ
    ends the connection of whoever writes them, each time that it tries.
    """
    kept: Headers = {name: it for name, it in headers.items() if name.lower() not in _ROUTING}
    try:
        kept = _finite(kept)
        size = len(pamqp.encode.field_table(kept))
    except (TypeError, ValueError, OverflowError, RecursionError, struct.error) as error:
        return {_NOTE: f"left out: {error}"[:200]}
    if size <= _MOST_BYTES:
        return kept
    return {_NOTE: f"left out: {size:,} bytes, at most {_MOST_BYTES:,} are written"}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {name: _finite(it) for name, it in value.items()}
    return [_finite(it) for it in value] if isinstance(value, list) else value
