"""The spans themselves: names and attributes by OpenTelemetry's conventions where there are such.

Enters: an OpenTelemetry tracer, and what happens. Leaves: spans (semantic conventions for
messaging, RPC and databases; what they have no name for begins with `bridge.`). No argument,
result or tensor is ever put into a span.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from taskiq import TaskiqMessage

from bridge.errors import error_text, outcome_of
from bridge.labels import SENT_AT, waited_of
from bridge.tracing import Metadata, Tracer

_W3C = TraceContextTextMapPropagator()
_FIELDS = ("traceparent", "tracestate")
_MOST_TEXT = 300
_METHOD = "inference.GRPCInferenceService/ModelInfer"


class Spans(Tracer):
    """OpenTelemetry's, and what the middleware needs besides."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def here(self) -> Span | None:
        """The open span."""
        span = trace.get_current_span()
        return span if span.get_span_context().is_valid else None

    def trace_id(self) -> str | None:
        """The open span's trace."""
        context = trace.get_current_span().get_span_context()
        return trace.format_trace_id(context.trace_id) if context.is_valid else None

    @contextmanager
    def batch(self, model: str, version: str, rows: int, marks: Sequence[Any]) -> Iterator[None]:
        """A child of the first message that is sampled, linked to all; these link back."""
        spans: list[Span] = [mark for mark in marks if mark is not None]
        if not spans:
            yield
            return
        parent = next((span for span in spans if span.is_recording()), spans[0])
        attributes: dict[str, Any] = {
            "bridge.model": model,
            "bridge.model_version": version or "newest",
            "bridge.rows": rows,
            "messaging.batch.message_count": len(marks),
        }
        with self._tracer.start_as_current_span(
            f"batch {model}",
            context=trace.set_span_in_context(parent, Context()),
            links=[Link(span.get_span_context()) for span in spans],
            attributes=attributes,
            record_exception=False,
        ) as span:
            for member in spans:
                if member is not parent and span.is_recording():
                    member.add_link(span.get_span_context())
            yield

    @contextmanager
    def asking(self, address: str, model: str) -> Iterator[Metadata]:
        """A client's span, if anybody is traced here."""
        if self.here() is None:
            yield None
            return
        host, _, port = address.rpartition(":")
        attributes: dict[str, Any] = {
            "rpc.system": "grpc",
            "rpc.service": "inference.GRPCInferenceService",
            "rpc.method": "ModelInfer",
            "server.address": host.strip("[]"),
            "server.port": int(port),
            "bridge.model": model,
        }
        with self._tracer.start_as_current_span(
            _METHOD, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False
        ):
            carrier: dict[str, str] = {}
            _W3C.inject(carrier)
            yield tuple(carrier.items())

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A client's span, if the task is traced."""
        if self.here() is None:
            yield
            return
        attributes = {"db.system.name": "redis", "db.operation.name": "SET"}
        with self._tracer.start_as_current_span(
            "save result", kind=SpanKind.CLIENT, attributes=attributes, record_exception=False
        ):
            yield

    def begin_sending(self, message: TaskiqMessage, system: str, queue: str) -> Span:
        """A producer's span, and its trace in the message's labels; `end` it when it is sent.

        Its parent is the span that is open here, or else what the labels say already.
        """
        parent = None if self.here() is not None else _told(message.labels)
        span = self._tracer.start_span(
            f"send {queue}",
            context=parent,
            kind=SpanKind.PRODUCER,
            attributes=_messaging("send", message, system, queue),
        )
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(span))
        message.labels.update(carrier)
        message.labels.setdefault(SENT_AT, round(time.time(), 3))
        return span

    def begin_processing(self, message: TaskiqMessage, system: str, queue: str) -> Span:
        """A consumer's span, open from here on in this task of the event loop."""
        attributes = _messaging("process", message, system, queue)
        waited_s = waited_of(message.labels, None, time.time())
        if waited_s is not None:
            attributes["bridge.queue_seconds"] = round(waited_s, 6)
        span = self._tracer.start_span(
            f"process {queue}",
            context=_told(message.labels) or Context(),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
        )
        contexts.attach(trace.set_span_in_context(span))
        return span

    def mark_end(self, span: Span, error: BaseException | None) -> None:
        """Say in a span how its task, or a try of it, ended."""
        if not span.is_recording():
            return
        span.set_attribute("bridge.outcome", outcome_of(error).value)
        if error is not None:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, error_text(error, _MOST_TEXT)))


def _messaging(operation: str, message: TaskiqMessage, system: str, queue: str) -> dict[str, Any]:
    return {
        "messaging.system": system,
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": queue,
        "messaging.message.id": message.task_id,
        "bridge.task": message.task_name,
    }


def _told(labels: Mapping[str, Any]) -> Context | None:
    """What a message's labels, which anybody may write, say of its trace."""
    carrier = {name: labels[name] for name in _FIELDS if isinstance(labels.get(name), str)}
    if "traceparent" not in carrier:
        return None
    return _W3C.extract(carrier, Context())
