"""Spans around sending and running a task, as a taskiq middleware.

Enters: what taskiq, and our intake, tell middlewares. Leaves: a producer's and a consumer's span;
the trace travels in the message's labels `traceparent` and `tracestate` (W3C Trace Context), where
stock taskiq's OpenTelemetryMiddleware puts it too.
"""

import asyncio
import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from taskiq import AsyncBroker, TaskiqEvents, TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.exceptions import NoResultError

from bridge.deliveries import TellsWhatItGivesUp
from bridge.errors import SettingsError
from bridge.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from bridge.traces.spans import Spans

logger = logging.getLogger("bridge.traces")

_INSTALL = "OpenTelemetry is not installed: pip install 'taskiq-triton-bridge[otel]'"

_BY_GRPC = (
    "OTEL_EXPORTER_OTLP_PROTOCOL says grpc: spans are sent by http/protobuf, to port 4318 of most "
    "collectors"
)

_HEADERS = (
    "what {} says cannot be sent as headers: it must be name=value,name=value, with what else than "
    "letters and digits stands in a value percent-encoded"
)

_sending: ContextVar["Span | None"] = ContextVar("bridge_sending", default=None)
_processing: ContextVar["Span | None"] = ContextVar("bridge_processing", default=None)


class TracesMiddleware(TaskiqMiddleware):
    """Of one broker."""

    def __init__(
        self,
        settings: Settings,
        endings: TellsWhatItGivesUp,
        kind: Literal["inference", "training"],
        queue: str,
    ) -> None:
        """OpenTelemetry is not imported before the broker starts.

        Raises:
            SettingsError: BRIDGE_TRACES asks for traces, and OpenTelemetry is not installed. With
                OpenTelemetry's own variables, which may be set for everything on a machine, that
                is a warning at the start.
        """
        super().__init__()
        self._must = settings.bridge_traces is True
        self._by_grpc = settings.traces_by_grpc
        self._wrong_headers = settings.wrong_headers
        self._kind, self._queue = kind, queue
        self._system = "rabbitmq" if settings.bridge_queue == "rabbitmq" else "redis"
        self._spans: Spans | None = None
        self._started = False
        endings.given_up.append(self.post_save)

    def set_broker(self, broker: AsyncBroker) -> None:
        """Begin before the worker's own handlers, which start other brokers."""
        super().set_broker(broker)
        broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, lambda _state: self.startup())

    def startup(self) -> None:
        """Start OpenTelemetry, if nobody has."""
        if self._started:
            return
        self._started = True
        if self._by_grpc:
            self._cannot(_BY_GRPC)
            return
        if self._wrong_headers:
            self._cannot(_HEADERS.format(self._wrong_headers))
            return
        try:
            from bridge.traces.provider import start  # noqa: PLC0415 - an extra
        except ImportError as error:
            self._cannot(f"{_INSTALL} ({error})")
            return
        role = f"{self._kind}-worker" if self.broker.is_worker_process else "client"
        self._spans = start(f"mlbridge-{role}")

    def _cannot(self, reason: str) -> None:
        if self._must:
            raise SettingsError(f"BRIDGE_TRACES is true, but {reason}")
        logger.warning("no traces: %s", reason)

    async def shutdown(self) -> None:
        """Send what is left, within a bound."""
        if self._spans is not None:
            from bridge.traces.provider import stop  # noqa: PLC0415 - an extra

            self._spans = None
            self._started = False
            await stop()

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Open a producer's span, and write its trace into the labels."""
        if self._spans is not None:
            _sending.set(self._spans.begin_sending(message, self._system, self._queue))
        return message

    def post_send(self, message: TaskiqMessage) -> None:  # noqa: ARG002 - taskiq's
        """Close it: the queue has the task. The span of a task that it did not take is lost."""
        span = _sending.get()
        if span is not None:
            span.end()
            _sending.set(None)

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Open a consumer's span, until the message is dealt with, its acknowledgement included.

        That is the end of the task of the event loop that deals with it.
        """
        if self._spans is not None:
            span = self._spans.begin_processing(message, self._system, self._queue)
            _processing.set(span)
            running = asyncio.current_task()
            if running is not None:
                running.add_done_callback(lambda _: span.end())
        return message

    def on_error(
        self,
        message: TaskiqMessage,  # noqa: ARG002 - taskiq's
        result: TaskiqResult[Any],  # noqa: ARG002
        exception: BaseException,
    ) -> None:
        """A try has failed; taskiq's own retries hide its error from those who come later."""
        self._mark(_processing.get(), exception)

    def post_execute(
        self,
        message: TaskiqMessage,  # noqa: ARG002 - taskiq's
        result: TaskiqResult[Any],
    ) -> None:
        """A try has ended. Of one that comes back by itself `on_error` does not hear."""
        if result.error is not None and not isinstance(result.error, NoResultError):
            self._mark(_processing.get(), result.error)

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """A task has its record. One that was not run has a span of that moment."""
        if self._spans is None:
            return
        span = _processing.get()
        if span is None:
            self.pre_execute(message)
            span = _processing.get()
        self._mark(span, result.error)

    def _mark(self, span: "Span | None", error: BaseException | None) -> None:
        if span is not None and self._spans is not None:
            self._spans.mark_end(span, error)
