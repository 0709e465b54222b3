"""Task messages and results <-> bytes, in JSON or msgpack.

Enters: bytes from the queue or Redis. Leaves: taskiq's own message and result objects. The
format is a property of the message: the first byte tells it, the label `content_type` carries it
on, and the answer to a msgpack task is msgpack. Nothing here is ever unpickled, and an error
class comes only from our own tree.
"""

import json
from typing import Any

import msgpack
import numpy as np
import orjson
from pydantic import ValidationError
from pydantic_core import to_jsonable_python
from taskiq import BrokerMessage, TaskiqMessage, TaskiqResult
from taskiq.abc.formatter import TaskiqFormatter

from bridge.errors import (
    BridgeError,
    MalformedMessageError,
    MessageTooLargeError,
    ResultTooLargeError,
    TaskFailedError,
    error_class,
)

CONTENT_TYPE = "content_type"
"""Label that names a message's format; absent: JSON."""
MSGPACK = "application/msgpack"
_MOST_RESULT_BYTES = 500 * 2**20
"""Redis ends the connection of whoever writes a value of more than 512 MB."""

Labels = dict[str, Any]


def is_binary(labels: Labels) -> bool:
    """Whether messages with these labels carry raw bytes."""
    return labels.get(CONTENT_TYPE) == MSGPACK


class Formatter(TaskiqFormatter):
    """taskiq's formatter: writes what the labels ask for, reads both formats.

    JSON is laid out as stock taskiq lays it out.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        """Make a formatter.

        Args:
            max_bytes: of a message that may be written; None: any.
        """
        self._max_bytes = max_bytes

    def dumps(self, message: TaskiqMessage) -> BrokerMessage:
        """Write a message.

        Raises:
            MalformedMessageError: an argument cannot be written in the message's format.
            MessageTooLargeError: it has more bytes than may be written.
        """
        fields = {
            "task_id": message.task_id,
            "task_name": message.task_name,
            "labels": message.labels,
            "labels_types": message.labels_types,
            "args": message.args,
            "kwargs": message.kwargs,
        }
        try:
            body = _packed(fields, binary=is_binary(message.labels))
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
        """
        fields = _unpacked(message)
        try:
            parsed = TaskiqMessage.model_validate(fields)
        except ValidationError as error:
            where = ", ".join(".".join(map(str, item["loc"])) or "body" for item in error.errors())
            raise MalformedMessageError(f"not a task message; wrong or missing: {where}") from None
        if message[:1] not in _JSON_STARTS:
            parsed.labels[CONTENT_TYPE] = MSGPACK
        return parsed


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
        written = _packed(fields, binary=binary)
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
    return _packed(fields, binary=binary)


def decode_result(data: bytes) -> TaskiqResult[Any]:
    """Read a result, in either format.

    `error` is of our own tree: a task's foreign exception becomes `TaskFailedError`.

    Raises:
        MalformedMessageError: not a result.
    """
    fields = _unpacked(data)
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


_JSON_STARTS = (b"{", b" ", b"\n", b"\t", b"\r", b"[", b'"')


def _packed(fields: Any, *, binary: bool) -> bytes:
    if binary:
        packed: bytes = msgpack.packb(fields, default=_plain)
        return packed
    return orjson.dumps(fields, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return to_jsonable_python(value)


def _unpacked(data: bytes) -> Any:
    try:
        if data[:1] not in _JSON_STARTS:
            return msgpack.unpackb(data)
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            return json.loads(data)  # Python writes NaN, which strict JSON has not
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise MalformedMessageError(f"neither JSON nor msgpack: {error}"[:200]) from None


def _error_fields(error: BaseException) -> dict[str, Any]:
    """An exception in the layout of taskiq's `ExceptionRepr`, its message as one text."""
    return {
        "exc_type": type(error).__qualname__,
        "exc_message": [str(error)],
        "exc_module": type(error).__module__,
        "exc_cause": None,
        "exc_context": None,
        "exc_suppress_context": True,
    }


def _error_from(fields: dict[str, Any]) -> BridgeError:
    name = str(fields.get("exc_type", "unknown error"))
    message = " ".join(map(str, fields.get("exc_message") or ()))
    known = error_class(name) if fields.get("exc_module") == "bridge.errors" else None
    return known(message) if known else TaskFailedError(f"{name}: {message}")
