"""What a span says of a try; no server is needed."""

import asyncio
import json

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from taskiq import SimpleRetryMiddleware

from bridge.errors import InvalidInputError, ModelUnavailableError, TritonUnavailableError
from bridge.queues import build_broker
from bridge.settings import Settings
from bridge.traces import TracesMiddleware
from bridge.traces.spans import Spans


class Delivery:
    """A message that may come back, and is not kept."""

    redelivered, deliveries, attempt, crashes, waits, sent_at = False, 1, 1, 0, 0, None

    def __init__(self, **labels):
        task = {"task_id": "a", "task_name": "t", "labels": labels, "args": [], "kwargs": {}}
        self.body = json.dumps(task).encode()

    async def retry(self, wait_s, *, counting):
        pass

    async def hand_back(self):
        pass

    async def ack(self):
        pass


@pytest.fixture
def traced(monkeypatch):
    """A function that runs a task once, with what it raises, and gives its span."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = Settings()
    broker = build_broker(settings, "inference")
    middleware = TracesMiddleware(settings, broker.intake.endings, "inference", "q")
    middleware._spans = Spans(provider.get_tracer("test"))
    broker.add_middlewares(SimpleRetryMiddleware(), middleware)

    async def nothing(*_):
        pass

    monkeypatch.setattr(broker.results, "save", nothing)
    monkeypatch.setattr(broker, "kick", nothing)

    async def run(error, **labels):
        async def meet(message, turn):
            if error is not None:
                raise error

        broker.intake.shortcuts["t"] = meet
        await asyncio.create_task(broker.intake.take(Delivery(**labels)))
        await asyncio.sleep(0)
        (span,) = [it for it in exporter.get_finished_spans() if it.name == "process q"]
        return span

    return run


@pytest.mark.parametrize("error", [ModelUnavailableError("away"), TritonUnavailableError("down")])
async def test_a_try_that_comes_back_by_itself_is_marked_as_failed(traced, error):
    span = await traced(error)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == type(error).__name__


async def test_a_try_that_taskiqs_retries_repeat_is_marked_with_its_own_error(traced):
    span = await traced(InvalidInputError("wrong"), retry_on_error=True)
    assert span.attributes["error.type"] == "InvalidInputError"


async def test_a_try_that_succeeds_is_not(traced):
    span = await traced(None)
    assert span.status.status_code is not StatusCode.ERROR
    assert span.attributes["bridge.outcome"] == "succeeded"
