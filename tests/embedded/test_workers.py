"""The worker pools as parts of a stack."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import psutil
import pytest

from bridge.embedded.stack import Part, PartState, QueueChoice, Stack
from bridge.embedded.state import StateFolder
from bridge.embedded.workers import WorkerPool, worker_command
from bridge.errors import RuntimeStartError
from bridge.settings import Settings


def test_the_commands_are_taskiqs_own() -> None:
    inference = worker_command("inference", 3, drain_timeout_s=25)
    assert inference[:5] == [sys.executable, "-P", "-m", "taskiq", "worker"]
    assert inference[5:7] == ["bridge.broker:broker", "bridge.tasks.inference"]
    assert inference[inference.index("--workers") + 1] == "3"
    training = worker_command("training", 1, drain_timeout_s=25)
    assert training[5:7] == ["bridge.broker:training_broker", "bridge.tasks.training"]
    assert training[training.index("--max-async-tasks") + 1] == "1"


def variables_of(part: Part) -> dict[str, str]:
    assert part.pid is not None
    return psutil.Process(part.pid).environ()


@pytest.mark.parametrize("queue", [QueueChoice.RABBITMQ, QueueChoice.REDIS_STREAMS])
async def test_both_pools_come_up_and_drain(
    queue: QueueChoice, find_traces: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_ADMIN_KEY", "of-another-triton")
    stack = Stack(Settings(), private=True, queue=queue, workers=2, training_workers=1)
    async with stack:
        parts = {part.name: part for part in stack.parts}
        inference, training = parts["inference worker"], parts["training worker"]
        assert inference.address == "2 on taskiq_ml"
        assert "TRITON_ADMIN_KEY" not in variables_of(inference)
        key = stack.settings.triton_admin_key
        assert key is not None
        assert variables_of(training)["TRITON_ADMIN_KEY"] == key.get_secret_value()
        assert variables_of(inference)["REDIS_URL"] == stack.environment["REDIS_URL"]

        stop = asyncio.Event()
        watch = asyncio.create_task(stack.watch(stop))
        first = inference.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        async with asyncio.timeout(30):
            while inference.pid == first or inference.state is not PartState.RUNNING:
                await asyncio.sleep(0.05)
        stop.set()
        await watch
        pools = [part.server for part in (inference, training)]
    assert all(pool is not None and pool.process.returncode == 0 for pool in pools)
    assert find_traces(stack.folder.name) == []


async def test_workers_that_cannot_start_say_why(own_state: StateFolder) -> None:
    pool = WorkerPool(own_state, "inference", 1, {"RABBITMQ_PORT": "none"})
    with pytest.raises(RuntimeStartError, match=r"(?s)inference-worker.*RABBITMQ_PORT"):
        await pool.start()
    assert not pool.process.running
