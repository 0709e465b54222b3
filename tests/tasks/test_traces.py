"""One trace from the producer to the saved result, on real RabbitMQ, Redis and Triton.

The collector is the fake at the seam: a small OTLP/HTTP server that keeps what the real exporters
(OpenTelemetry's SDK here, Triton's own in C++) send it.
"""

import asyncio
import contextlib
import json
import secrets
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from redis.asyncio import Redis
from taskiq import AsyncTaskiqTask
from taskiq.kicker import AsyncKicker
from taskiq.serializers import JSONSerializer
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.queue import Queue, QueueType
from taskiq_redis import RedisAsyncResultBackend

from bridge.client import BridgeClient
from bridge.embedded.triton import TritonServer
from bridge.errors import SettingsError, UnknownModelError
from bridge.settings import Settings
from bridge.traces import TracesMiddleware

WAIT_S = 90
WORKER = ["-P", "-m", "taskiq", "worker", "bridge.broker:broker", "bridge.tasks.inference"]
MESSAGES = 8
PRODUCER = f"""
import asyncio
from bridge.client import BridgeClient

async def main():
    async with BridgeClient() as client:
        calls = [client.infer("double", {{"x": [[i, 0, 0, 0]]}}) for i in range({MESSAGES})]
        for answer in await asyncio.gather(*calls):
            print(answer.outputs["y"].tolist())

asyncio.run(main())
"""


@dataclass
class Span:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: set
    attributes: dict
    failed: bool


def value_of(wrapped):
    """OTLP's AnyValue, as JSON has it: integers are texts there."""
    ((kind, value),) = wrapped.items()
    return int(value) if kind == "intValue" else value


def attributes_of(item):
    return {entry["key"]: value_of(entry["value"]) for entry in item.get("attributes", [])}


class Collector(ThreadingHTTPServer):
    """Takes OTLP by HTTP, as protobuf or as JSON, and keeps the spans."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.spans = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def take(self, kind, body):
        if "json" in kind:
            request, id_of = json.loads(body), str.lower
        else:
            request = MessageToDict(ExportTraceServiceRequest.FromString(body))
            id_of = hex_of
        for resource in request.get("resourceSpans", []):
            service = attributes_of(resource.get("resource", {})).get("service.name", "")
            for scope in resource.get("scopeSpans", []):
                self.spans += [read_span(service, span, id_of) for span in scope["spans"]]

    def of(self, trace_id):
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    async def until(self, condition):
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "\n".join(map(str, self.spans))
            await asyncio.sleep(0.1)


def hex_of(encoded):
    """Protobuf's JSON has bytes as base64."""
    import base64  # noqa: PLC0415

    return base64.b64decode(encoded).hex()


def read_span(service, span, id_of):
    parent = span.get("parentSpanId") or ""
    return Span(
        service,
        span["name"],
        id_of(span["traceId"]),
        id_of(span["spanId"]),
        id_of(parent) if parent else "",
        {id_of(link["spanId"]) for link in span.get("links", [])},
        attributes_of(span),
        span.get("status", {}).get("code") in {2, "STATUS_CODE_ERROR"},
    )


class CollectorHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.take(self.headers["Content-Type"], body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def collector():
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
async def traced_triton(state, model_repository, collector):
    """A Triton that sends spans of its own."""
    url = f"{collector.url}/v1/traces"
    async with TritonServer(state, model_repository, traces_url=url) as server:
        yield server


@pytest.fixture(scope="module")
def own_queues(environment):
    name = f"traces-{uuid.uuid4().hex[:8]}"
    return environment | {
        "TASKIQ_ML_QUEUE": name,
        "TASKIQ_ML_ROUTING_KEY": name,
        "TASKIQ_ML_TRAINING_QUEUE": f"{name}-training",
        "TASKIQ_ML_TRAINING_ROUTING_KEY": f"{name}-training",
    }


@pytest.fixture(scope="module")
def traced(own_queues, collector, traced_triton):
    """Variables of a worker or producer whose spans reach the collector."""
    return own_queues | {
        "TRITON_URL": traced_triton.address,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "BRIDGE_LOG_FORMAT": "json",
        "BRIDGE_BATCH_DELAY_US": '{"double": 2000000}',
    }


@pytest.fixture(scope="module")
async def traced_worker(traced, module_worker):
    return await module_worker([*WORKER, "--workers", "1"], traced)


@pytest.fixture(scope="module")
async def stock(traced):
    """A producer that never heard of this package."""
    broker = AioPikaBroker(
        url=f"amqp://{traced['RABBITMQ_USERNAME']}:{traced['RABBITMQ_PASSWORD']}"
        f"@127.0.0.1:{traced['RABBITMQ_PORT']}/",
        task_queues=[Queue(name=traced["TASKIQ_ML_QUEUE"], type=QueueType.QUORUM)],
        dead_letter_queue=Queue(
            name=f"{traced['TASKIQ_ML_QUEUE']}.dead_letter", type=QueueType.QUORUM
        ),
    ).with_result_backend(RedisAsyncResultBackend(traced["REDIS_URL"], serializer=JSONSerializer()))
    await broker.startup()
    yield broker
    await broker.shutdown()


async def send(broker, task_name, *args, sampled=True) -> tuple[AsyncTaskiqTask, str, str]:
    """A task with a W3C traceparent label: the task, the trace and the producer's span."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    label = f"00-{trace_id}-{span_id}-{'01' if sampled else '00'}"
    kicker = AsyncKicker(task_name, broker, {"traceparent": label})
    return await kicker.kiq(*args), trace_id, span_id


def named(spans, prefix):
    return [span for span in spans if span.name.startswith(prefix)]


async def test_one_trace_from_the_producer_to_the_result(traced, traced_worker, collector):
    queue = traced["TASKIQ_ML_QUEUE"]
    before = len(named(collector.spans, f"send {queue}"))  # of an earlier try
    produced = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", PRODUCER),
        env=traced,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await produced.communicate()
    assert produced.returncode == 0, output.decode()

    def sent():
        return named(collector.spans, f"send {queue}")[before:]

    def complete(send):
        process = named(collector.of(send.trace_id), "process ")
        return process and named(collector.of(send.trace_id), "save result")

    await collector.until(lambda: len(sent()) >= MESSAGES and all(map(complete, sent())))
    processes = {}
    for send_span in sent()[:MESSAGES]:
        (process,) = named(collector.of(send_span.trace_id), "process ")
        (save,) = named(collector.of(send_span.trace_id), "save result")
        assert send_span.service == "mlbridge-client"
        assert send_span.parent_id == ""
        assert process.service == "mlbridge-inference-worker"
        assert process.parent_id == send_span.span_id
        assert process.attributes["bridge.queue_seconds"] >= 0
        assert process.attributes["messaging.destination.name"] == queue
        assert process.attributes["bridge.outcome"] == "succeeded"
        assert save.parent_id == process.span_id
        processes[process.span_id] = process
    batches = [
        span for span in named(collector.spans, "batch double") if span.links & set(processes)
    ]
    assert set().union(*(batch.links for batch in batches)) == set(processes)  # none without
    assert max(len(batch.links) for batch in batches) > 1  # messages did travel together
    for batch in batches:
        assert batch.attributes["messaging.batch.message_count"] == len(batch.links)
        assert batch.parent_id in batch.links
        for member in batch.links - {batch.parent_id}:
            assert processes[member].links == {batch.span_id}
        trace = collector.of(batch.trace_id)
        (call,) = named(trace, "inference.GRPCInferenceService/ModelInfer")
        assert call.parent_id == batch.span_id


async def test_tritons_own_spans_lie_below_our_call(stock, traced_worker, collector):
    """By its own exporter. It loses the caller's trace of about one request in twenty."""
    for _ in range(10):
        before = len(named(collector.spans, "InferRequest"))
        task, trace_id, _ = await send(stock, "ml_inference", "double", {"x": [[1, 2, 3, 4]]})
        assert not (await task.wait_result(timeout=WAIT_S)).is_err
        await collector.until(
            lambda n=before: len(named(collector.spans, "InferRequest")) > n,
        )
        await collector.until(lambda it=trace_id: named(collector.of(it), "inference.GRPC"))
        (call,) = named(collector.of(trace_id), "inference.GRPC")
        if own := [span for span in collector.spans if span.parent_id == call.span_id]:
            break
    assert {(span.name, span.service, span.trace_id) for span in own} == {
        ("InferRequest", "triton-inference-server", trace_id)
    }


async def test_a_trace_goes_through_redis_streams_too(traced, new_worker, collector):
    stream = f"stream-{uuid.uuid4().hex[:8]}"
    variables = traced | {"BRIDGE_QUEUE": "redis-streams", "TASKIQ_ML_QUEUE": stream}
    await new_worker([*WORKER, "--workers", "1"], variables)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        settings = Settings()
    async with BridgeClient(settings) as client:
        trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
        message = {
            "task_id": uuid.uuid4().hex,
            "task_name": "ml_inference",
            "labels": {"traceparent": f"00-{trace_id}-{span_id}-01"},
            "args": ["double", {"x": [[1, 2, 3, 4]]}],
            "kwargs": {},
        }
        async with Redis.from_url(traced["REDIS_URL"]) as redis:
            await redis.xadd(stream, {b"data": json.dumps(message).encode()})
        result = await client.handle(message["task_id"]).result(timeout_s=WAIT_S)
        assert result["outputs"]["y"] == [[2, 4, 6, 8]]
    await collector.until(lambda: named(collector.of(trace_id), "process "))
    (process,) = named(collector.of(trace_id), "process ")
    assert process.parent_id == span_id
    assert process.attributes["messaging.system"] == "redis"
    assert process.attributes["messaging.destination.name"] == stream
    assert named(collector.of(trace_id), "save result")


async def test_a_strangers_trace_goes_on_and_sampling_is_respected(stock, traced_worker, collector):
    arguments = ("double", {"x": [[1, 2, 3, 4]]})
    task, unsampled, _ = await send(stock, "ml_inference", *arguments, sampled=False)
    assert not (await task.wait_result(timeout=WAIT_S)).is_err
    task, trace_id, span_id = await send(stock, "ml_inference", *arguments)
    assert not (await task.wait_result(timeout=WAIT_S)).is_err
    await collector.until(lambda: named(collector.of(trace_id), "process "))
    (process,) = named(collector.of(trace_id), "process ")
    assert process.parent_id == span_id
    assert process.attributes["messaging.message.id"] == task.task_id
    ours = [span for span in collector.of(unsampled) if span.service.startswith("mlbridge")]
    assert ours == []  # it was exported before, if at all: in order, by one worker


async def test_tasks_that_taskiq_runs_or_nobody_knows_are_traced_too(
    stock, traced_worker, collector
):
    _, handed_on, _ = await send(stock, "train_model", "no-data", {}, {})
    unknown, dead_lettered, _ = await send(stock, "no_such_task")
    assert (await unknown.wait_result(timeout=WAIT_S)).is_err
    await collector.until(lambda: named(collector.of(handed_on), "process "))
    await collector.until(lambda: named(collector.of(dead_lettered), "process "))
    (process,) = named(collector.of(dead_lettered), "process ")
    assert process.failed
    assert process.attributes["bridge.outcome"] == "dead-lettered"
    assert process.attributes["error.type"] == "UnknownTaskError"


async def test_log_lines_name_task_and_trace(stock, traced_worker, collector):
    task, trace_id, _ = await send(stock, "ml_inference", "no-such-model", {"x": [[1]]})
    assert (await task.wait_result(timeout=WAIT_S)).is_err
    lines = [json.loads(it) for it in traced_worker.log.read_text().splitlines() if it[0] == "{"]
    mine = [line for line in lines if line.get("task_id") == task.task_id]
    assert mine
    assert {line.get("trace_id") for line in mine} == {trace_id}
    assert {"ts", "level", "logger", "message"} <= set(mine[0])
    await collector.until(lambda: named(collector.of(trace_id), "process "))
    assert named(collector.of(trace_id), "process ")[0].failed


async def test_a_collector_that_never_answers_costs_no_task_anything(own_queues, new_worker):
    name = f"{own_queues['TASKIQ_ML_QUEUE']}-silent"
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        variables = own_queues | {
            "TASKIQ_ML_QUEUE": name,
            "TASKIQ_ML_ROUTING_KEY": name,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_BSP_MAX_QUEUE_SIZE": "64",  # soon full
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "16",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        worker = await new_worker([*WORKER, "--workers", "1"], variables)
        untraced = {key: it for key, it in variables.items() if not key.startswith("OTEL_")}
        async with BridgeClient(_settings(untraced)) as client:
            calls = [client.infer("double", {"x": [[i, 0, 0, 0]]}) for i in range(200)]
            answers = await asyncio.gather(*calls)
            with pytest.raises(UnknownModelError):
                await client.infer("no-such-model", {"x": [[1]]})
        assert [answer.outputs["y"][0][0] for answer in answers] == [2 * i for i in range(200)]
        assert await worker.stop() == 0
        log = worker.log.read_text()
        assert log.count("Queue full, dropping") <= 1
        assert "[task_id=" in log


def _settings(variables):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return Settings()


async def test_mlbridge_worker_writes_nothing_but_json(own_queues, new_worker):
    name = f"{own_queues['TASKIQ_ML_QUEUE']}-json"
    queues = {"TASKIQ_ML_QUEUE": name, "TASKIQ_ML_ROUTING_KEY": name}
    variables = own_queues | queues | {"BRIDGE_LOG_FORMAT": "json"}
    command = ["-P", "-m", "bridge", "worker", "inference", "--workers", "1"]
    worker = await new_worker(command, variables)
    assert await worker.stop() == 0
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert any(line["message"] == "Listening started." for line in lines)


@pytest.mark.parametrize("installed", [True, False])
def test_nothing_of_ours_loads_opentelemetry_where_traces_are_off(installed):
    """redis-py and FastAPI load parts of it by themselves, where they find it."""
    before = "" if installed else "sys.modules['opentelemetry'] = None;"
    code = (
        f"import sys; {before} import bridge.tasks.inference, bridge.client;"
        "prefixes = ('bridge.traces.', 'opentelemetry.exporter');"
        "print([name for name in sys.modules if name.startswith(prefixes)])"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code], env={}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "['bridge.traces.middleware']"


class _Endings:
    def __init__(self):
        self.given_up = []


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, r"taskiq-triton-bridge\[otel\]"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "4318"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "key=a;b"}, "OTEL_EXPORTER_OTLP_HEADERS"),
    ],
)
def test_traces_that_cannot_be_had_are_told(variables, told, monkeypatch, caplog):
    """Here only the extra is missing, as where it is not installed."""
    monkeypatch.setitem(sys.modules, "bridge.traces.provider", None)
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **variables}
    asked = TracesMiddleware(_settings(endpoint), _Endings(), "inference", "q")
    asked.startup()
    assert "no traces: " in caplog.text
    ordered = _settings(endpoint | {"BRIDGE_TRACES": "true"})
    with pytest.raises(SettingsError, match=told):
        TracesMiddleware(ordered, _Endings(), "inference", "q").startup()


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "BRIDGE_TRACES": "false"}, False),
        ({"BRIDGE_TRACES": "true"}, True),
    ],
)
def test_when_traces_are_wanted(variables, wanted):
    assert _settings(variables).traces_wanted is wanted
