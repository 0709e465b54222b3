"""Triton down is a pause: nothing is consumed, nothing fails, and it goes on by itself."""

import asyncio

import numpy as np
import pytest

from bridge import errors
from bridge.client import BridgeClient
from bridge.embedded.triton import TritonServer
from bridge.queues import queue_depths
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
        there = environment | own | {"TRITON_URL": server.address, "BRIDGE_PREFETCH": "20"}
        for name, value in there.items():
            monkeypatch.setenv(name, value)
        here = Settings()
        worker = await new_worker(COMMAND, there)
        async with BridgeClient(here) as client:
            before = [await client.submit("double", {"x": X}) for _ in range(50)]
            await server.kill()
            during = [await client.submit("double", {"x": X}) for _ in range(50)]
            waiting = await nobody_consuming(here)
            late = [await client.submit("double", {"x": X}) for _ in range(20)]
            hopeless = await client.submit("double", {"x": X}, timeout_s=0.1)
            # They stay in RabbitMQ: what was in hand is the only thing missing there.
            assert (await queue_depths(here))[0].messages == waiting + 21
            await server.start()
            for handle in before + during + late:
                result = await handle.result(40)
                assert result.outputs["y"].tolist() == [[2, 2, 2, 2]]
            with pytest.raises(errors.TaskExpiredError):
                await hopeless.result(20)
        assert await worker.stop() == 0


async def nobody_consuming(here):
    """Messages in the queue, once the worker has stopped to consume."""
    async with asyncio.timeout(20):
        while (depth := (await queue_depths(here))[0]).consumers:
            await asyncio.sleep(0.1)
    return depth.messages
