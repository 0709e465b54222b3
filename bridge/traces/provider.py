"""Starts OpenTelemetry for a process, once, and ends it with the last who asked.

Enters: settings and a name for the process. Leaves: the tracer in `bridge.tracing`, and spans in a
bounded buffer from which a thread of OpenTelemetry's sends them. A collector that is down or slow
costs spans, never time: what the buffer cannot hold is dropped.
"""

import asyncio
import logging
import threading
import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from bridge import __version__, tracing
from bridge.traces.spans import Spans

logger = logging.getLogger("bridge.traces")

_FLUSH_S = 2.0
_COMPLAIN_EVERY_S = 60.0
_NOISY = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)

_users = 0
_own: TracerProvider | None = None


def start(service: str) -> Spans:
    """The process's tracer; begins if nobody did. Call `stop` as often.

    An application's own provider is used as it is, and not ended.

    Args:
        service: `service.name`, unless OpenTelemetry's variables give one.
    """
    global _users, _own  # noqa: PLW0603 - OpenTelemetry has one provider for a process, too
    _users += 1
    current = tracing.tracer()
    if isinstance(current, Spans):
        return current
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):  # nobody has set one
        for name in _NOISY:
            logging.getLogger(name).addFilter(_NowAndThen())
        provider = _own = _new_provider(service)
        trace.set_tracer_provider(provider)
    spans = Spans(provider.get_tracer("bridge", __version__))
    tracing.use(spans)
    return spans


async def stop() -> None:
    """With the last `stop`, send what is left, for up to 2 seconds."""
    global _users  # noqa: PLW0603 - as `start`
    _users -= 1
    if _users or _own is None:
        return
    # A thread that nobody waits for at the process's end, as the collector may be silent.
    flushed = asyncio.Event()
    loop, provider = asyncio.get_running_loop(), _own

    def flush() -> None:
        provider.force_flush()
        if not loop.is_closed():
            loop.call_soon_threadsafe(flushed.set)

    threading.Thread(target=flush, daemon=True, name="bridge-traces-flush").start()
    try:
        await asyncio.wait_for(flushed.wait(), _FLUSH_S)
    except TimeoutError:
        logger.info("the trace collector did not take the last spans in time")


def _new_provider(service: str) -> TracerProvider:
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service}))
    # Its own hook at the process's end would wait for a collector that is silent.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class _NowAndThen(logging.Filter):
    """Lets a complaint pass once a minute: a collector that is down has one for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - logging's
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _COMPLAIN_EVERY_S
        return True
