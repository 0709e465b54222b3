"""Live workers as `tests/tasks` starts them, each test with a queue and a Redis of its own."""

import importlib.util
import sys
from pathlib import Path

import aiormq
import pytest

from bridge.embedded.redis import RedisServer
from bridge.queues import build_broker
from bridge.settings import Settings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # what makes hostile things is not a test

_spec = importlib.util.spec_from_file_location("workers", HERE.parent / "tasks" / "conftest.py")
workers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(workers)
environment, new_worker = workers.environment, workers.new_worker


@pytest.fixture
async def variables(environment, request, state):
    """The environment of a queue and a Redis that only this test uses."""
    name = request.node.name
    names = ("TASKIQ_ML_QUEUE", "TASKIQ_ML_ROUTING_KEY")
    training = ("TASKIQ_ML_TRAINING_QUEUE", "TASKIQ_ML_TRAINING_ROUTING_KEY")
    own = environment | dict.fromkeys(names, name) | dict.fromkeys(training, f"{name}_t")
    async with RedisServer(state) as server:
        yield own | {"REDIS_URL": server.url, "BRIDGE_MAX_READ_BYTES": "150000"}


@pytest.fixture
async def own(variables, monkeypatch):
    """Settings of that environment; its queues exist."""
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    for kind in ("inference", "training"):
        broker = build_broker(Settings(), kind)
        await broker.startup()
        await broker.shutdown()
    return Settings()


@pytest.fixture
async def live(own, variables, new_worker):
    """One worker process that takes from that queue."""
    command = ["-P", "-m", "taskiq", "worker", "bridge.broker:broker", "bridge.tasks.inference"]
    return await new_worker([*command, "--workers", "1"], variables)


@pytest.fixture
async def channel(own):
    connection = await aiormq.connect(own.rabbitmq_url)
    yield await connection.channel(publisher_confirms=True)
    await connection.close()
