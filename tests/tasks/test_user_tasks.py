"""A user's own module of tasks, found by `-tp`, runs beside ours."""

import shlex

import numpy as np
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


async def test_a_users_tasks_run_beside_ours(new_worker, environment, settings, tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "tasks.py").write_text(MODULE)
    # Queues of its own, so that no other worker of the session takes the tasks.
    own = {
        "TASKIQ_ML_QUEUE": "shop_ml",
        "TASKIQ_ML_ROUTING_KEY": "shop_ml",
        "TASKIQ_ML_TRAINING_QUEUE": "shop_training",
        "TASKIQ_ML_TRAINING_ROUTING_KEY": "shop_training",
    }
    arguments = shlex.split(
        "-m taskiq worker bridge.broker:broker bridge.tasks.inference --use-process-pool"
        " --workers 1 -fsd -tp 'shop/*.py'"
    )
    worker = await new_worker(arguments, environment | own, cwd=tmp_path)
    here = settings.model_copy(update={name.lower(): value for name, value in own.items()})
    broker = build_broker(here, "inference")
    await broker.startup()
    try:
        shouted = await (await AsyncKicker("shout", broker, {}).kiq("hi")).wait_result(timeout=20)
        assert shouted.return_value == "HI"
        squared = await (await AsyncKicker("square", broker, {}).kiq(7)).wait_result(timeout=20)
        assert squared.return_value == 49
        failed = await (await AsyncKicker("fail", broker, {}).kiq()).wait_result(timeout=20)
        assert "LookupError: of the user's own" in str(failed.error)
    finally:
        await broker.shutdown()
    async with BridgeClient(here) as client:
        result = await client.infer("double", {"x": np.ones((1, 4), np.float32)})
        assert result.outputs["y"].tolist() == [[2, 2, 2, 2]]
    assert await worker.stop() == 0
