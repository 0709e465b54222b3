"""Triton down is a pause, within the time that a task has."""

import asyncio
import time

import numpy as np
import pytest
from taskiq.kicker import AsyncKicker

from bridge import errors
from bridge.client import BridgeClient
from bridge.embedded.triton import TritonServer
from bridge.queues import build_broker
from bridge.settings import Settings

COMMAND = [
    "-P",
    "-m",
    "taskiq",
    "worker",
    "bridge.broker:broker",
    "bridge.tasks.inference",
    "--workers",
    "1",
]
X = np.ones((1, 4), np.float32)


async def test_a_restart_of_triton_costs_nobody_an_answer(
    environment, new_worker, state, model_repository, monkeypatch
):
    async with TritonServer(state, model_repository, models=["double"]) as server:
        own = dict.fromkeys(("TASKIQ_ML_QUEUE", "TASKIQ_ML_ROUTING_KEY"), "triton_away")
        there = environment | own | {"TRITON_URL": server.address}
        for name, value in there.items():
            monkeypatch.setenv(name, value)
        here = Settings()
        worker = await new_worker(COMMAND, there)
        async with BridgeClient(here) as client:
            before = [await client.submit("double", {"x": X}) for _ in range(50)]
            await server.kill()
            during = [await client.submit("double", {"x": X}) for _ in range(50)]
            await expect_it_to_be_away(here)
            await server.start()
            for handle in before + during:
                result = await handle.result(40)
                assert result.outputs["y"].tolist() == [[2, 2, 2, 2]]
        assert await worker.stop() == 0


async def expect_it_to_be_away(here):
    """A task that has little time hears that Triton is away, and does not hear it too late."""
    broker = build_broker(here, "inference")
    await broker.startup()
    try:
        started = time.monotonic()
        kicker = AsyncKicker("ml_inference", broker, {"timeout": 0.5})
        task = await kicker.kiq("double", {"x": X.tolist()})
        async with asyncio.timeout(20):
            result = await task.wait_result(check_interval=0.02)
        with pytest.raises(errors.TritonUnavailableError, match="is not available"):
            result.raise_for_error()
        assert time.monotonic() - started < 15
    finally:
        await broker.shutdown()
