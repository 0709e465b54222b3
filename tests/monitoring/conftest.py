"""A real stack, watched by a real Prometheus that runs the configuration and alerts that we ship.

One stack, for test_watched.py: two worker pools, Triton, a RabbitMQ with its plugin
rabbitmq_prometheus. What people and machines do wrong is done to it, so that no panel is empty.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import numpy as np
import pytest
import yaml
from redis.asyncio import Redis
from sklearn.datasets import load_iris

from bridge.client import BridgeClient
from bridge.embedded.ports import free_ports
from bridge.embedded.probes import http_ok
from bridge.embedded.process import clean_environment
from bridge.embedded.rabbitmq import RabbitMQServer
from bridge.embedded.server import Server
from bridge.embedded.state import StateFolder
from bridge.embedded.workers import WorkerPool
from bridge.errors import BridgeError
from bridge.settings import Settings
from bridge.training.datasets import DatasetStore
from bridge.triton_client import TritonClient

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "deploy" / "grafana"))

from bridgeboards.prometheus import Prometheus  # noqa: E402 - found by the line above

MODEL, TRAINED = "watched", "watched-iris"
ROW = np.ones((1, 4), np.float32)
WAIT_S = 300


class PrometheusServer(Server):
    """Prometheus with deploy/prometheus, its targets replaced by those that run here."""

    name = "prometheus"
    remedy = "If the port was taken meanwhile, try again."

    def __init__(self, state: StateFolder, program: str, targets: dict[str, str]) -> None:
        super().__init__(state)
        self._program = program
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self._targets = targets

    def _command(self) -> list[str]:
        shipped = ROOT / "deploy" / "prometheus"
        config = yaml.safe_load((shipped / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        assert {job["job_name"] for job in config["scrape_configs"]} == self._targets.keys()
        for job in config["scrape_configs"]:
            job.pop("dns_sd_configs", None)
            job["static_configs"] = [{"targets": [self._targets[job["job_name"]]]}]
        (self.room / "prometheus.yml").write_text(yaml.safe_dump(config))
        rules = yaml.safe_load((shipped / "alerts.yml").read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            rule["for"] = "1s"  # how long is for promtool to test
        (self.room / "alerts.yml").write_text(yaml.safe_dump(rules))
        return [
            self._program,
            f"--config.file={self.room / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.room / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def _environment(self) -> dict[str, str]:
        return clean_environment()

    async def _answers(self) -> bool:
        return await http_ok("127.0.0.1", self.port, "/-/ready")


@pytest.fixture
def prometheus(watched):
    return watched.asked


@dataclass
class Watched:
    """What runs, and since when something happens."""

    rabbitmq: RabbitMQServer
    prometheus: PrometheusServer
    asked: Prometheus
    client: BridgeClient
    triton: TritonClient
    inference_port: int
    queue: str
    started: float = field(default_factory=time.time)

    async def until(self, check: Any) -> None:
        """Wait until `check` is true; it may be a coroutine function."""
        async with asyncio.timeout(WAIT_S):
            while True:
                found = check()
                if await found if asyncio.iscoroutine(found) else found:
                    return
                await asyncio.sleep(0.2)


async def _callers(watched: Watched) -> None:
    """People who predict, in bursts, a few of them wrongly, until they are stopped."""
    for turn in range(10**6):
        model = MODEL if turn % 4 else TRAINED
        name = "x" if turn % 9 else "wrong"
        asked = [
            watched.client.infer(model, {name: np.repeat(ROW, 1 + n % 3, axis=0)})
            for n in range(12 + 8 * (turn % 5))
        ]
        await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0.5)


async def _send_what_nobody_understands(watched: Watched) -> None:
    connection = await aio_pika.connect(watched.rabbitmq.url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("taskiq")
        unknown = b'{"task_id":"u1","task_name":"shop.resize","labels":{},"args":[],"kwargs":{}}'
        for body in (b"no task at all", unknown, unknown):
            await exchange.publish(aio_pika.Message(body), watched.queue)


async def _unload_for_a_while(watched: Watched) -> None:
    # Workers name models in labels once they know them.
    await asyncio.gather(*(watched.client.infer(MODEL, {"x": ROW}) for _ in range(50)))
    await watched.triton.unload(MODEL)
    waiting = [await watched.client.submit(MODEL, {"x": ROW}) for _ in range(50)]
    seen = f'max_over_time(bridge_model_paused{{model="{MODEL}"}}[1d]) > 0'
    try:
        await watched.until(lambda: asyncio.to_thread(watched.asked.now, seen))
    finally:
        await watched.triton.load(MODEL)
    await asyncio.gather(*(handle.result(WAIT_S) for handle in waiting))


async def _end_in_other_ways(watched: Watched) -> None:
    """Tasks that are cancelled, that expire, that come again: their workers stand still."""
    async with _stopped_workers(watched):
        unwanted = [await watched.client.submit(MODEL, {"x": ROW}) for _ in range(4)]
        for handle in unwanted:
            await handle.cancel()
        await watched.until(lambda: _waiting(watched, 0))
    async with _stopped_workers(watched) as workers:
        late = [await watched.client.submit(MODEL, {"x": ROW}, timeout_s=0.2) for _ in range(8)]
        await watched.until(lambda: _waiting(watched, 0))
        # Killed with messages in hand: taskiq starts others, to whom they are delivered again.
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    for handle in (*late, *unwanted):
        with contextlib.suppress(BridgeError):
            await handle.result(WAIT_S)


@contextlib.asynccontextmanager
async def _stopped_workers(watched: Watched) -> AsyncIterator[list[int]]:
    async with httpx.AsyncClient(timeout=30) as http:
        ready = await http.get(f"http://127.0.0.1:{watched.inference_port}/readyz")
    workers = [int(pid) for pid in ready.json()["processes"]]
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        yield workers
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)


async def _waiting(watched: Watched, count: int) -> bool:
    connection = await aio_pika.connect(watched.rabbitmq.url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(watched.queue, passive=True)
        return queue.declaration_result.message_count == count


async def _train(watched: Watched) -> None:
    """Two that go live, one after the other; and one that runs on, waits, is paused, fails."""
    mlp = {"architecture": "mlp", "target": "species"}
    train = watched.client.train
    bad = await train("iris", {"architecture": "no such network"}, {})
    good = await train("iris", {**mlp, "model_id": TRAINED}, {"epochs": 3})
    with contextlib.suppress(BridgeError):
        await bad.result(WAIT_S)
    result = await good.result(WAIT_S)
    assert result["model_name"] == TRAINED
    served = f'bridge_model_info{{model="{TRAINED}"}} == 1'
    await watched.until(lambda: asyncio.to_thread(watched.asked.now, served))
    await (await train("iris", {**mlp, "model_id": TRAINED}, {"epochs": 3})).result(WAIT_S)
    paused = await train("iris", {**mlp, "model_id": "watched-later"}, {"epochs": 100_000})
    await paused.pause()
    for name in ("long", "longer"):
        await train("iris", {**mlp, "model_id": f"watched-{name}"}, {"epochs": 100_000})


@pytest.fixture(scope="session")
async def bounded_redis(redis_server):
    """Redis with a maxmemory, as where it is deployed."""
    async with Redis.from_url(redis_server.url) as admin:
        await admin.config_set("maxmemory", "1gb")
        yield redis_server
        await admin.config_set("maxmemory", "0")


def _variables(rabbitmq, redis, triton, models, data) -> dict[str, str]:
    return {
        "RABBITMQ_HOST": "127.0.0.1",
        "RABBITMQ_PORT": str(rabbitmq.port),
        "RABBITMQ_USERNAME": rabbitmq.username,
        "RABBITMQ_PASSWORD": rabbitmq.password,
        "TASKIQ_ML_QUEUE": "taskiq_ml",
        "REDIS_URL": redis.url,
        "TRITON_URL": triton.address,
        "MODEL_REPOSITORY": str(models),
        "DATASET_ROOT": str(data / "datasets"),
        "CHECKPOINT_ROOT": str(data / "checkpoints"),
        "BRIDGE_METRICS_HOST": "127.0.0.1",
        "BRIDGE_RETRY_FIRST_S": "1",
        "BRIDGE_TRAINING_SLICE_S": "30",
        "BRIDGE_CHECKPOINT_EVERY_S": "2",
    }


@contextlib.asynccontextmanager
async def _things_happen(watched: Watched) -> AsyncIterator[None]:
    """Callers call, a model is trained, and what people and machines do wrong is done."""
    going_on = [
        asyncio.create_task(_callers(watched)),
        training := asyncio.create_task(_train(watched)),
    ]
    try:
        await _send_what_nobody_understands(watched)
        await _unload_for_a_while(watched)
        await _end_in_other_ways(watched)
        await training
        yield
    finally:
        for task in going_on:
            task.cancel()
        await asyncio.gather(*going_on, return_exceptions=True)


@pytest.fixture(scope="module")
async def watched(
    state,
    rabbitmq,
    bounded_redis,
    triton,
    model_repository,
    save_multiplier,
    tmp_path_factory,
    find_program,
) -> AsyncIterator[Watched]:
    """The stack, after all that should be seen has happened; callers still call."""
    program = find_program("prometheus", "prometheus")
    del rabbitmq  # it has seen to it that RabbitMQ is installed
    save_multiplier(model_repository, MODEL, 2.0)
    data = tmp_path_factory.mktemp("watched")
    iris = load_iris()
    columns = {"x": iris.data.astype(np.float32), "species": iris.target}
    DatasetStore(data / "datasets").add("iris", {"train": columns})
    inference_port, training_port = free_ports(2)
    async with RabbitMQServer(state, prometheus=True) as own_rabbitmq:
        targets = {
            "bridge-inference": f"127.0.0.1:{inference_port}",
            "bridge-training": f"127.0.0.1:{training_port}",
            "triton": f"127.0.0.1:{triton.metrics_port}",
            "rabbitmq": f"127.0.0.1:{own_rabbitmq.prometheus_port}",
            "rabbitmq-queues": f"127.0.0.1:{own_rabbitmq.prometheus_port}",
        }
        variables = _variables(own_rabbitmq, bounded_redis, triton, model_repository, data)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            settings = Settings()
        async with contextlib.AsyncExitStack() as exits:
            enter = exits.enter_async_context
            prometheus = await enter(PrometheusServer(state, program, targets))
            asked = exits.enter_context(contextlib.closing(Prometheus(prometheus.url)))
            inference = variables | {"BRIDGE_METRICS_PORT": str(inference_port)}
            training = variables | {
                "BRIDGE_METRICS_PORT": str(training_port),
                "TRITON_ADMIN_KEY": triton.admin_key,
            }
            admin = await enter(TritonClient([triton.address], triton.admin_key))
            await asyncio.gather(
                admin.load(MODEL),
                enter(WorkerPool(state, "inference", 2, inference)),
                enter(WorkerPool(state, "training", 1, training)),
            )
            client = await enter(BridgeClient(settings))
            queue = settings.taskiq_ml_queue
            seen = Watched(own_rabbitmq, prometheus, asked, client, admin, inference_port, queue)
            async with _things_happen(seen):
                yield seen
