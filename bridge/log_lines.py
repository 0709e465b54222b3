"""Log lines that say of which task and trace they are: text for people, or JSON.

Enters: records of the standard library's `logging`, whoever made them. Leaves: one line each, with
the ids of the task that is dealt with where the line was written. Secrets that are known are
covered, also where a library's text holds them. Must not know queues, Triton or OpenTelemetry.
"""

import logging
from collections.abc import Collection
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from bridge.tracing import tracer

TASK_ID: ContextVar[str | None] = ContextVar("bridge_task_id", default=None)
"""The task that is dealt with here."""

_COVER = "***"
_LEAST_SECRET = 6  # what is shorter stands in too many words
_MOST_ID = 128
_RECORD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def write(kind: Literal["text", "json"], secrets: Collection[str] = ()) -> None:
    """Have the handlers of the root logger, which are there already, write lines of this kind.

    Args:
        kind: text keeps each handler's own format.
        secrets: never written; those of fewer than 6 characters cannot be told from words.
    """
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(level=logging.INFO)
    for handler in root.handlers:
        inner = handler.formatter or logging.Formatter()
        if isinstance(inner, _Lines):
            inner = inner.inner
        lines = JsonLines if kind == "json" else TextLines
        handler.setFormatter(lines(inner, secrets))


class _Lines(logging.Formatter):
    """Covers secrets in what another formatter writes."""

    def __init__(self, inner: logging.Formatter, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self.inner = inner
        known = {secret for secret in secrets if len(secret) >= _LEAST_SECRET}
        known |= {orjson.dumps(secret).decode()[1:-1] for secret in known}  # as JSON has them
        self._secrets = sorted(known, key=len, reverse=True)

    def covered(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, _COVER)
        return text


class TextLines(_Lines):
    """The handler's own format; ids stand at the end of a record's first line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        text = self.covered(self.inner.format(record))
        ids = _ids(record)
        if not ids:
            return text
        first, newline, rest = text.partition("\n")
        told = " ".join(f"{name}={value}" for name, value in ids.items())
        return f"{first} [{told}]{newline}{rest}"


class JsonLines(_Lines):
    """One JSON object a line.

    With ts, level, logger, message, process; where there is one also task_id, trace_id, exception,
    and what the record's author gave as `extra`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        fields: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **_ids(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        for name, value in record.__dict__.items():
            if name not in _RECORD and name not in fields:
                fields[name] = value
        # What cannot be encoded is a lone half of a surrogate pair, as a stranger's text may hold.
        try:
            line = orjson.dumps(fields, default=str)
        except TypeError:
            line = orjson.dumps({name: _clean(value) for name, value in fields.items()})
        return self.covered(line.decode())


def _ids(record: logging.LogRecord) -> dict[str, str]:
    """Of the task and the trace; a record's own `task_id` goes before."""
    found = {"task_id": getattr(record, "task_id", None) or TASK_ID.get()}
    found["trace_id"] = tracer().trace_id()
    return {name: _clean(value)[:_MOST_ID] for name, value in found.items() if value}


def _clean(value: Any) -> str:
    """Text that any reader takes: ids are a stranger's, and may hold line breaks."""
    text = str(value).encode(errors="replace").decode()
    return text if text.isprintable() else ascii(text)[1:-1]
