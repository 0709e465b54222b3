"""`/metrics` of a worker pool on real servers: exact over its processes, alive or dead."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path

import aio_pika
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge import __version__ as VERSION  # noqa: N812
from bridge.client import BridgeClient
from bridge.embedded.ports import free_ports
from bridge.embedded.triton import TritonServer
from bridge.errors import InvalidInputError, TaskExpiredError
from bridge.settings import Settings
from bridge.triton_client import TritonClient

COMMAND = ["-P", "-m", "bridge", "worker", "inference", "--workers", "2"]
ROW = np.ones((1, 4), np.float32)
ROOT = Path(__file__).parent.parent.parent
HOSTILE = ["../../etc/passwd", "a\nb", 'x"} 1\nbridge_fake 1', "", "x" * 5000, None, 7, ["double"]]


async def page(port):
    async with httpx.AsyncClient(timeout=30) as http:
        answer = await http.get(f"http://127.0.0.1:{port}/metrics")
    return answer.raise_for_status().text


async def scrape(port):
    """Values by sample name and its labels' values, in the order of the labels' names."""
    found = Counter()
    for family in text_string_to_metric_families(await page(port)):
        assert family.documentation
        for sample in family.samples:
            assert "pid" not in sample.labels
            key = (sample.name, *(value for _, value in sorted(sample.labels.items())))
            assert key not in found, "twice the same series"
            found[key] = sample.value
    return found


async def until(port, right, most_s=90):
    """What is scraped, once it is right."""
    found = lost = None
    try:
        async with asyncio.timeout(most_s):
            while True:
                try:
                    found = await scrape(port)
                    if right(found):
                        return found
                except httpx.TransportError as error:  # the process that served it was killed
                    lost = error
                await asyncio.sleep(0.1)
    except TimeoutError:
        told = {key: it for key, it in (found or {}).items() if "_bucket" not in key[0]}
        raise AssertionError(f"not within {most_s} s ({lost!r}): {told}") from None


def ended(model, outcome, task="ml_inference", version="1"):
    return ("bridge_tasks_total", model, outcome, task, version)


def of(found, name):
    """All series of a name."""
    return {key[1:]: value for key, value in found.items() if key[0] == name}


class Pool:
    """Two processes with a metrics port on a queue of their own, and a client."""

    def __init__(self, variables, triton):
        self.variables, self.triton = variables, triton
        self.port = int(variables["BRIDGE_METRICS_PORT"])
        self.queue = variables["TASKIQ_ML_QUEUE"]
        self.client = None

    async def send(self, *bodies):
        """Put messages into the queue as any AMQP client does."""
        there = Settings(**{name.lower(): value for name, value in self._reach().items()})
        connection = await aio_pika.connect(there.rabbitmq_url)
        async with connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange("taskiq", ensure=False)
            for body in bodies:
                await exchange.publish(aio_pika.Message(body), routing_key=self.queue)

    def _reach(self):
        return {name: it for name, it in self.variables.items() if name.startswith("RABBITMQ")}

    async def processes(self):
        async with httpx.AsyncClient(timeout=30) as http:
            answer = await http.get(f"http://127.0.0.1:{self.port}/livez")
        return [int(pid) for pid in answer.json()["processes"]]


@pytest.fixture(scope="module")
async def pool(environment, module_worker, state, model_repository):
    own = dict.fromkeys(("TASKIQ_ML_QUEUE", "TASKIQ_ML_ROUTING_KEY"), f"m-{uuid.uuid4().hex[:8]}")
    async with TritonServer(state, model_repository, models=["double", "lookup"]) as triton:
        variables = {
            **environment,
            **own,
            "TRITON_URL": triton.address,
            "BRIDGE_METRICS_PORT": str(free_ports(1)[0]),
            "BRIDGE_METRICS_HOST": "127.0.0.1",
            "BRIDGE_RETRY_FIRST_S": "0.1",
        }
        await module_worker(COMMAND, variables, processes=2)
        pool = Pool(variables, triton)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            settings = Settings()
        async with BridgeClient(settings) as pool.client:
            yield pool


def body_of(task, *args, **kwargs):
    message = {"task_id": uuid.uuid4().hex, "task_name": task, "labels": {}}
    return json.dumps({**message, "args": list(args), "kwargs": kwargs}).encode()


async def test_counts_are_exact_over_all_processes(pool):
    client = pool.client
    await asyncio.gather(*(client.infer("double", {"x": ROW}) for _ in range(60)))
    for _ in range(3):
        with pytest.raises(InvalidInputError):
            await client.infer("double", {"wrong": ROW})
    handle = await client.submit("double", {"x": ROW}, timeout_s=0.0)
    with pytest.raises(TaskExpiredError):
        await handle.result(60)
    await pool.send(b"no task at all", body_of("nobody knows it"), body_of("nor this"))
    exact = {
        ended("double", "succeeded"): 60,
        ended("double", "failed"): 3,
        ended("double", "expired"): 1,
        ended("double", "cancelled"): 0,
        ended("unknown", "dead-lettered", "unknown", "unknown"): 2,
        ("bridge_dead_letters_total", "UnknownTaskError"): 2,
        ("bridge_dead_letters_total", "MalformedMessageError"): 1,
        ("bridge_task_seconds_count", "ml_inference"): 63,  # the expired did not run
        ("bridge_queue_seconds_count", "ml_inference"): 63,
        ("bridge_batch_wait_seconds_count", "double"): 60,
        ("bridge_batch_rows_sum", "double"): 60,
        ("bridge_save_seconds_count",): 66,
        ("bridge_messages_in_hand",): 0,
        ("bridge_paused",): 0,
        ("bridge_requests_in_flight", "double"): 0,
    }
    found = await until(pool.port, lambda found: exact.items() <= found.items())
    requests = found["bridge_batch_rows_count", "double"]
    assert 1 <= requests <= 60
    assert found["bridge_triton_seconds_count", "double"] == requests
    assert found["bridge_triton_seconds_sum", "double"] > 0
    assert found["bridge_payload_bytes_total", "in", "message"] > 60 * ROW.nbytes
    assert found["bridge_payload_bytes_total", "out", "message"] > 60 * ROW.nbytes
    assert found["bridge_requests_limit", "double"] >= 1
    assert of(found, "bridge_model_info") == {("double", "1"): 1}
    assert len(of(found, "bridge_build_info")) == 1
    assert found["bridge_redis_memory_bytes",] > 0
    found = await until(pool.port, lambda found: ("bridge_backlog_seconds", "double") in found)
    assert found["bridge_backlog_seconds", "double"] == 0
    assert found["bridge_waiting_messages", pool.queue] == 0
    assert found["bridge_model_paused", "double"] == 0


async def test_a_strangers_names_make_no_series(pool):
    before = await scrape(pool.port)
    bodies = [body_of("ml_inference", name, {"x": [[1, 2, 3, 4]]}) for name in HOSTILE]
    bodies += [body_of("ml_inference", f"model-{number}", {}) for number in range(200)]
    bodies += [body_of("ml_inference", "double", {"x": [[1] * 4]}, "9" * n) for n in range(1, 30)]
    bodies += [body_of(f"task-{number}") for number in range(20)]
    await pool.send(*bodies)
    failed = len(HOSTILE) + 200
    key = ended("unknown", "failed", version="unknown")
    found = await until(
        pool.port,
        lambda found: (
            found[key] == failed
            and found[ended("unknown", "dead-lettered", "unknown", "unknown")] == 22
            and found[ended("double", "failed")] == 3 + 29
        ),
    )
    labels = {value for name, *values in found for value in values if name.endswith("_total")}
    assert not {it for it in labels if "model-" in it or "task-" in it or "9" in it}
    new = {(name, *rest) for name, *rest in found.keys() - before.keys() if "_bucket" not in name}
    assert all(set(rest) <= {"unknown", "ml_inference", *OUTCOMES} for _, *rest in new), new


OUTCOMES = ("succeeded", "failed", "expired", "cancelled", "dead-lettered")


async def test_promtool_finds_nothing_to_mend(pool, find_program):
    text = await page(pool.port)
    checked = await asyncio.to_thread(
        subprocess.run,
        [find_program("promtool", "prometheus"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert not checked.stderr.strip()


async def test_the_documented_metrics_are_those_that_there_are(pool):
    """By a process of its own: importing them makes a pool's folder."""
    command = [sys.executable, "-P", "-c", LIST]
    listed = await asyncio.to_thread(subprocess.check_output, command, text=True)
    made = {name: tuple(labels) for name, labels in json.loads(listed).items()}
    text = (ROOT / "docs" / "monitoring.md").read_text()
    rows = re.findall(ROW_OF_TABLE, text, re.MULTILINE)
    told = {name: tuple(sorted(re.findall(r"`(\w+)`", labels))) for name, _, labels in rows}
    assert len(told) == len(rows)
    assert told == made
    kinds = {name: kind for name, kind, _ in rows}
    for family in text_string_to_metric_families(await page(pool.port)):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert kinds[name] == family.type


ROW_OF_TABLE = r"^\| `(bridge_\w+)` \| (counter|gauge|histogram) \| (.*?) \|"
LIST = """
import json
from prometheus_client import Counter
from bridge.metrics import series
found = {name: sorted(it.labels) for name, it in series.GAUGES.items()}
for metric in vars(series).values():
    if hasattr(metric, "_labelnames"):
        ending = "_total" if isinstance(metric, Counter) else ""
        found[metric._name + ending] = sorted(metric._labelnames)
print(json.dumps(found))
"""


async def test_a_pause_is_told_and_what_waits_in_seconds(pool):
    client = pool.client
    before = await scrape(pool.port)
    table = {"index": np.zeros((1, 1), np.int64)}
    for model, inputs in (("lookup", table), ("double", {"x": ROW})):
        for _ in range(20):  # one by one: what comes before a process knows the model has no name
            await client.infer(model, inputs)
    await pool.triton.kill()
    try:
        handles = [await client.submit("double", {"x": ROW}) for _ in range(40)]
        waits = ("bridge_waiting_messages", pool.queue)
        await until(pool.port, lambda found: found[waits] == 40 and found["bridge_paused",] == 2)
        found = await until(  # each process tells in its own time, but soon
            pool.port, lambda found: found["bridge_messages_in_hand",] == 0, most_s=10
        )
        both = of(found, "bridge_backlog_seconds")
        assert both.keys() >= {("double",), ("lookup",)}
        assert all(seconds > 0 for seconds in both.values())
        await handles.pop().cancel()
    finally:
        await pool.triton.start()
    await asyncio.gather(*(handle.result(90) for handle in handles))
    found = await until(
        pool.port,
        lambda found: (
            found[waits] == 0
            and found["bridge_paused",] == 0
            and found[ended("double", "cancelled")] == 1
        ),
    )
    for model, times in (("double", 20 + 39), ("lookup", 20)):
        assert found[ended(model, "succeeded")] == before[ended(model, "succeeded")] + times
    assert found["bridge_redelivered_total", "ml_inference"] >= 1
    assert set(of(found, "bridge_backlog_seconds").values()) == {0}


async def test_a_model_that_is_away_is_told(pool):
    table = {"index": np.zeros((1, 1), np.int64)}
    await pool.client.infer("lookup", table)
    async with TritonClient([pool.triton.address], pool.triton.admin_key) as admin:
        await admin.unload("lookup")
        handle = await pool.client.submit("lookup", table)
        found = await until(pool.port, lambda found: found["bridge_model_paused", "lookup"] >= 1)
        assert found["bridge_retries_total", "ModelUnavailableError", "lookup", "ml_inference"] >= 1
        assert found["bridge_model_paused", "double"] == 0
        await admin.load("lookup")
    await handle.result(90)
    await until(pool.port, lambda found: found["bridge_model_paused", "lookup"] == 0)


async def test_processes_that_are_killed_leave_counts_and_no_gauges(pool):
    found = await until(pool.port, lambda found: found["bridge_messages_in_hand",] == 0)
    assert of(found, "bridge_requests_limit")
    counted = {key: it for key, it in found.items() if key[0].endswith(("_total", "_count"))}
    for pid in await pool.processes():
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(90):
            while True:
                with contextlib.suppress(httpx.TransportError):  # it served the page
                    there = await pool.processes()
                    if pid not in there and len(there) == 2:
                        break
                await asyncio.sleep(0.1)
        found = await until(pool.port, lambda found: found["bridge_build_info", VERSION] == 1)
        assert counted.items() <= found.items()
    # Both are new, and have not heard of any model; Triton's answers were the dead ones'.
    for name in ("bridge_requests_limit", "bridge_model_info", "bridge_model_paused"):
        assert of(found, name) == {}
    await pool.client.infer("double", {"x": ROW})
    key = ended("double", "succeeded")
    found = await until(pool.port, lambda found: found[key] == counted[key] + 1)
    assert found["bridge_task_seconds_count", "ml_inference"] == (
        counted["bridge_task_seconds_count", "ml_inference"] + 1
    )


async def test_a_port_that_another_pool_has_is_an_error_that_says_what_to_do(pool):
    process = await asyncio.create_subprocess_exec(
        sys.executable, *COMMAND, env=pool.variables, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 1
    told = " ".join(errors.decode().split())
    assert f"BRIDGE_METRICS_PORT {pool.port} cannot be used" in told
    assert "each pool of a machine needs one of its own" in told
    assert "Traceback" not in told


def test_the_rooms_below_import_no_prometheus():
    """A worker without a port pays nothing for it."""
    script = (
        "import sys, bridge.tasks.inference, bridge.intake, bridge.batcher, bridge.triton_client;"
        "assert not {'bridge.metrics', 'prometheus_client'} & sys.modules.keys(), 'imported'"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True)


async def test_of_redis_streams(environment, new_worker, redis):
    stream, port = f"stream-{uuid.uuid4().hex[:8]}", free_ports(1)[0]
    variables = environment | {
        "BRIDGE_QUEUE": "redis-streams",
        "TASKIQ_ML_QUEUE": stream,
        "BRIDGE_METRICS_PORT": str(port),
        "BRIDGE_METRICS_HOST": "127.0.0.1",
    }
    await new_worker(COMMAND, variables, processes=2)
    bodies = [body_of("ml_inference", "double", {"x": [[1, 2, 3, 4]]}) for _ in range(20)]
    for body in [*bodies, body_of("nobody knows it"), b"no task at all"]:
        await redis.xadd(stream, {b"data": body})
    exact = {
        ended("double", "succeeded"): 20,
        ended("unknown", "dead-lettered", "unknown", "unknown"): 1,
        ("bridge_dead_letters_total", "UnknownTaskError"): 1,
        ("bridge_dead_letters_total", "MalformedMessageError"): 1,
        ("bridge_queue_seconds_count", "ml_inference"): 20,
        ("bridge_batch_rows_sum", "double"): 20,
        ("bridge_waiting_messages", stream): 0,
        ("bridge_messages_in_hand",): 0,
    }
    await until(port, lambda found: exact.items() <= found.items())
