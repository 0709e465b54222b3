"""`/metrics` of a worker pool: right over its processes, alive or dead, and while it pauses."""

import asyncio
import os
import signal
from collections import Counter

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.client import BridgeClient
from bridge.embedded.ports import free_ports
from bridge.embedded.triton import TritonServer
from bridge.errors import InvalidInputError
from bridge.settings import Settings

COMMAND = ["-P", "-m", "bridge", "worker", "inference", "--workers", "2"]
GOOD = ("bridge_tasks_total", "double", "succeeded", "ml_inference", "1")
BAD = ("bridge_tasks_total", "double", "failed", "ml_inference", "1")
PAUSED = ("bridge_paused",)


async def scrape(port):
    """Sums by sample name and what its labels say."""
    async with httpx.AsyncClient(timeout=10) as http:
        answer = (await http.get(f"http://127.0.0.1:{port}/metrics")).raise_for_status()
    found = Counter()
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            assert "pid" not in sample.labels
            labels = tuple(value for name, value in sorted(sample.labels.items()) if name != "le")
            found[sample.name, *labels] += sample.value
    return found


async def until(port, right):
    async with asyncio.timeout(60):
        while True:
            try:
                if right(await scrape(port)):
                    return
            except httpx.TransportError:  # the process that served it was killed
                pass
            await asyncio.sleep(0.1)


async def test_counts_of_all_processes_and_of_dead_ones(
    environment, new_worker, state, model_repository, monkeypatch
):
    port = free_ports(1)[0]
    async with TritonServer(state, model_repository, models=["double"]) as triton:
        own = dict.fromkeys(("TASKIQ_ML_QUEUE", "TASKIQ_ML_ROUTING_KEY"), "counted")
        there = environment | own | {"TRITON_URL": triton.address}
        for name, value in there.items():
            monkeypatch.setenv(name, value)
        command = there | {"BRIDGE_METRICS_PORT": str(port)}
        await new_worker(COMMAND, command, processes=2)
        row = np.ones((1, 4), np.float32)
        async with BridgeClient(Settings()) as client:
            await asyncio.gather(*(client.infer("double", {"x": row}) for _ in range(60)))
            for _ in range(3):
                with pytest.raises(InvalidInputError):
                    await client.infer("double", {"wrong": row})
        await until(port, lambda found: found[GOOD] == 60)
        found = await scrape(port)
        assert found[BAD] == 3
        assert found["bridge_task_seconds_count", "ml_inference"] == 63
        assert found[PAUSED] == 0

        # A process that is killed takes its gauges along, and leaves what it has counted.
        async with httpx.AsyncClient(timeout=10) as http:
            ready = (await http.get(f"http://127.0.0.1:{port}/readyz")).json()
        os.kill(int(next(iter(ready["processes"]))), signal.SIGKILL)
        await triton.kill()
        async with BridgeClient(Settings()) as client:
            waiting = [await client.submit("double", {"x": row}) for _ in range(10)]
            await until(port, lambda found: found[PAUSED] in {1, 2} and found[GOOD] == 60)
            await triton.start()
            await asyncio.gather(*(handle.result(60) for handle in waiting))
        await until(port, lambda found: found[PAUSED] == 0 and found[GOOD] == 70)
