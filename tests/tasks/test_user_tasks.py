"""A user's own module of tasks, found by `-tp`, runs beside ours."""

import shlex
import uuid

import numpy as np
import psutil
import pytest
from taskiq.kicker import AsyncKicker

from bridge.client import BridgeClient
from bridge.queues import build_broker

MODULE = """
from bridge.broker import broker


@broker.task("shout")
async def shout(text: str) -> str:
    return text.upper()


@broker.task("square")
def square(number: int) -> int:
    return number * number


@broker.task("fail")
async def fail() -> None:
    raise LookupError("of the user's own")
"""


@pytest.fixture
async def shop(new_worker, environment, settings, tmp_path):
    """A worker with the user's module, and settings for who calls it."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "tasks.py").write_text(MODULE)
    # Queues of its own, so that no other worker of the session takes the tasks.
    queue = f"shop_{uuid.uuid4().hex}"
    own = {
        "TASKIQ_ML_QUEUE": queue,
        "TASKIQ_ML_ROUTING_KEY": queue,
        "TASKIQ_ML_TRAINING_QUEUE": f"{queue}_training",
        "TASKIQ_ML_TRAINING_ROUTING_KEY": f"{queue}_training",
    }
    arguments = shlex.split(
        "-m taskiq worker bridge.broker:broker bridge.tasks.inference --use-process-pool"
        " --workers 1 -fsd -tp 'shop/*.py'"
    )
    worker = await new_worker(arguments, environment | own, cwd=tmp_path)
    return worker, settings.model_copy(update={name.lower(): value for name, value in own.items()})


@pytest.fixture
async def call(shop):
    """Send a task, and wait for its result."""
    _, here = shop
    broker = build_broker(here, "inference")
    await broker.startup()

    async def called(name, *arguments):
        sent = await AsyncKicker(name, broker, {}).kiq(*arguments)
        return await sent.wait_result(timeout=20)

    yield called
    await broker.shutdown()


async def test_a_users_tasks_run_beside_ours(shop, call):
    worker, here = shop
    assert (await call("shout", "hi")).return_value == "HI"
    assert (await call("square", 7)).return_value == 49
    assert "LookupError: of the user's own" in str((await call("fail")).error)
    async with BridgeClient(here) as client:
        result = await client.infer("double", {"x": np.ones((1, 4), np.float32)})
        assert result.outputs["y"].tolist() == [[2, 2, 2, 2]]
    assert await worker.stop() == 0


async def test_the_pool_of_a_killed_worker_does_not_keep_its_messages(shop, call):
    """Its processes have its connections: RabbitMQ went on delivering to it for two minutes."""
    worker, _ = shop
    assert (await call("square", 2)).return_value == 4
    [killed] = [
        child for child in psutil.Process(worker.process.pid).children() if child.children()
    ]
    pool = killed.children()
    killed.kill()
    assert [(await call("square", number)).return_value for number in range(3)] == [0, 1, 4]
    assert psutil.wait_procs(pool, timeout=10)[1] == []
