"""Task messages and results <-> bytes, in JSON or msgpack.

Enters: bytes from the queue or Redis. Leaves: taskiq's own message and result objects. The
format is a property of the message: the first byte tells it, the label `content_type` carries it
on, and the answer to a msgpack task is msgpack. Nothing here is ever unpickled, and an error
class comes only from our own tree.
"""

import reprlib
from types import NoneType
from typing import Any

from taskiq import BrokerMessage, TaskiqMessage, TaskiqResult
from taskiq.abc.formatter import TaskiqFormatter
from taskiq.acks import parse_acknowledge_type
from taskiq.labels import prepare_label

from bridge.errors import (
    BridgeError,
    MalformedMessageError,
    MessageTooLargeError,
    ResultTooLargeError,
    TaskFailedError,
    error_class,
    error_text,
)
from bridge.messages.wire import check_readable, is_json, pack, unpack

CONTENT_TYPE = "content_type"
"""Label that names a message's format; absent: JSON."""
MSGPACK = "application/msgpack"
_MOST_RESULT_BYTES = 500 * 2**20
"""Redis ends the connection of whoever writes a value of more than 512 MB."""
_MOST_LABEL_BYTES = 64 * 1024
"""Labels are written back with each result."""
_MOST_ERROR_TEXT = 10_000
"""Characters of an error in a result."""

_FIELDS = tuple(
    {"task_id": str, "task_name": str, "labels": dict, "args": list, "kwargs": dict}.items()
)
_DICT_OR_NONE = (dict, NoneType)
_TEXT = frozenset({str})

Labels = dict[str, Any]


def is_binary(labels: Labels) -> bool:
    """Whether messages with these labels carry raw bytes."""
    return labels.get(CONTENT_TYPE) == MSGPACK


class Formatter(TaskiqFormatter):
    """taskiq's formatter: writes what the labels ask for, reads both formats.

    JSON is laid out as stock taskiq lays it out.
    """

    def __init__(self, max_bytes: int | None = None, most_read: int | None = None) -> None:
        """Make a formatter.

        Args:
            max_bytes: of a message that may be written; None: any.
            most_read: bytes of a message that may be read; None: any.
        """
        self._max_bytes = max_bytes
        self._most_read = most_read

    def dumps(self, message: TaskiqMessage) -> BrokerMessage:
        """Write a message.

        Raises:
            MalformedMessageError: an argument cannot be written in the message's format, or not
                be read by workers: they dead-letter such a message, and its caller hears nothing.
            MessageTooLargeError: it has more bytes than may be written.
        """
        fields = {
            "task_id": message.task_id,
            "task_name": message.task_name,
            "labels": _as_typed(message.labels, message.labels_types or {}),
            "labels_types": message.labels_types,
            "args": message.args,
            "kwargs": message.kwargs,
        }
        try:
            body = pack(fields, binary=is_binary(message.labels))
        except (TypeError, ValueError, OverflowError) as error:
            raise MalformedMessageError(
                f"arguments of {message.task_name!r} cannot be sent: {error}"
            ) from None
        if self._max_bytes is not None and len(body) > self._max_bytes:
            raise MessageTooLargeError(
                f"the message has {len(body):,} bytes; BRIDGE_MAX_MESSAGE_BYTES allows "
                f"{self._max_bytes:,}, as the broker would refuse it. Set "
                "BRIDGE_PAYLOAD_URL for clients and workers: large tensors then go beside their "
                "message. Or send fewer rows at a time"
            )
        try:
            check_readable(body)
        except ValueError as error:
            raise MalformedMessageError(
                f"no worker would read arguments of {message.task_name!r}: {error}"
            ) from None
        return BrokerMessage(
            task_id=message.task_id,
            task_name=message.task_name,
            message=body,
            labels=message.labels,
        )

    def loads(self, message: bytes) -> TaskiqMessage:
        """Read a message.

        Raises:
            MalformedMessageError: not JSON or msgpack, or not a task message.
            MessageTooLargeError: it has more bytes than may be read; none was looked at.
        """
        if self._most_read is not None and len(message) > self._most_read:
            raise MessageTooLargeError(
                f"the message has {len(message):,} bytes; this worker's BRIDGE_MAX_READ_BYTES "
                f"allows {self._most_read:,}. Raise it, or set BRIDGE_PAYLOAD_URL for clients and "
                "workers: large tensors then go beside their message. Or send fewer rows at a time"
            )
        fields = _unpacked(message, bounded=True)
        parsed = _task_message(fields)
        if not is_json(message):
            parsed.labels[CONTENT_TYPE] = MSGPACK
        elif is_binary(parsed.labels):  # whoever wrote JSON reads it
            del parsed.labels[CONTENT_TYPE]
        return parsed


def read_labels(message: TaskiqMessage) -> None:
    """Give a message's labels the types that it says they have, in place.

    Raises:
        MalformedMessageError: a label is not of its type or none that taskiq could follow, or the
            labels cannot be written back with a result.
    """
    try:
        message.parse_labels()
        if "ack_type" in message.labels:
            parse_acknowledge_type(message.labels["ack_type"])
        written = pack({"labels": message.labels}, binary=is_binary(message.labels))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _unreadable(f"labels cannot be read: {error}"[:200], message.task_id) from None
    if len(written) > _MOST_LABEL_BYTES:
        raise _unreadable(
            f"labels have {len(written):,} bytes, at most {_MOST_LABEL_BYTES:,} are taken: send "
            "what is large as an argument",
            message.task_id,
        )


def _as_typed(labels: Labels, types: Labels) -> Labels:
    """Labels as taskiq writes those whose type it names, for who reads a message that is sent on.

    They have been read, and JSON would have them as something else.
    """
    return {
        name: prepare_label(value)[0]
        if name in types and isinstance(value, bytes | float)
        else value
        for name, value in labels.items()
    }


def encode_result(result: TaskiqResult[Any]) -> bytes:
    """Write a result in its task's format; JSON is laid out as stock taskiq's.

    NaN and infinity become null in JSON, which has neither. A return value that cannot be written
    or kept is an error in its own result: the caller must hear of the end.
    """
    fields = {
        "is_err": result.is_err,
        "log": None,
        "return_value": result.return_value,
        "execution_time": result.execution_time,
        "labels": result.labels,
        "error": None if result.error is None else _error_fields(result.error),
    }
    binary = is_binary(result.labels)
    failure: BridgeError
    try:
        written = pack(fields, binary=binary, wide=True)
        if len(written) <= _MOST_RESULT_BYTES:
            return written
        failure = ResultTooLargeError(
            f"the task ended, but its result has {len(written):,} bytes; Redis keeps "
            f"{_MOST_RESULT_BYTES:,}. Set BRIDGE_PAYLOAD_URL for clients and workers: large "
            "outputs then go beside the result. Or send fewer rows at a time"
        )
    except (TypeError, ValueError, OverflowError) as error:
        failure = TaskFailedError(
            f"the task ended, but its return value cannot be written: {error}"
        )
    fields |= {"is_err": True, "return_value": None, "error": _error_fields(failure)}
    return pack(fields, binary=binary)


def decode_result(data: bytes) -> TaskiqResult[Any]:
    """Read a result, in either format.

    `error` is of our own tree: a task's foreign exception becomes `TaskFailedError`.

    Raises:
        MalformedMessageError: not a result.
    """
    fields = _unpacked(data, exact=True)
    if not isinstance(fields, dict) or not isinstance(fields.get("is_err"), bool):
        raise MalformedMessageError("not a task's result")
    error = fields.get("error")
    if fields["is_err"] and not isinstance(error, dict):
        error = {}
    return TaskiqResult.model_construct(
        is_err=fields["is_err"],
        log=None,
        return_value=fields.get("return_value"),
        execution_time=fields.get("execution_time", 0.0),
        labels=fields.get("labels") or {},
        error=_error_from(error) if isinstance(error, dict) else None,
    )


def _task_message(fields: Any) -> TaskiqMessage:
    """The message of these fields, which somebody else wrote.

    Checked by hand: pydantic tells of each wrong key of a dict, however many there are.
    """
    if not isinstance(fields, dict):
        raise MalformedMessageError("not a task message, but " + type(fields).__name__)
    get = fields.get
    wrong = [name for name, kind in _FIELDS if type(get(name)) is not kind]
    if type(get("labels_types")) not in _DICT_OR_NONE:
        wrong.append("labels_types")
    for name in ("labels", "kwargs"):
        if get(name) and name not in wrong and not _TEXT.issuperset(map(type, fields[name])):
            wrong.append(f"a key of {name}")
    if wrong:
        raise _unreadable(
            f"not a task message; wrong or missing: {', '.join(wrong)}", get("task_id")
        )
    return TaskiqMessage.model_construct(
        task_id=fields["task_id"],
        task_name=fields["task_name"],
        labels=fields["labels"],
        labels_types=get("labels_types"),
        args=fields["args"],
        kwargs=fields["kwargs"],
    )


def _unreadable(why: str, task_id: Any) -> MalformedMessageError:
    error = MalformedMessageError(why)
    error.task_id = task_id if isinstance(task_id, str) else None
    return error


def _unpacked(data: bytes, *, bounded: bool = False, exact: bool = False) -> Any:
    try:
        return unpack(data, bounded=bounded, exact=exact)
    except ValueError as error:
        raise MalformedMessageError(f"cannot be read as JSON or msgpack: {error}"[:200]) from None


def _error_fields(error: BaseException) -> dict[str, Any]:
    """An exception in the layout of taskiq's `ExceptionRepr`, its message as one text."""
    return {
        "exc_type": type(error).__qualname__,
        "exc_message": [error_text(error, _MOST_ERROR_TEXT)],
        "exc_module": type(error).__module__,
        "exc_cause": None,
        "exc_context": None,
        "exc_suppress_context": True,
    }


def _error_from(fields: dict[str, Any]) -> BridgeError:
    name = _shown(fields.get("exc_type", "unknown error"))
    parts = fields.get("exc_message") or []
    message = " ".join(map(_shown, parts if isinstance(parts, list) else [parts]))
    known = error_class(name) if fields.get("exc_module") == "bridge.errors" else None
    return known(message) if known else TaskFailedError(f"{name}: {message}")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else reprlib.repr(value)
