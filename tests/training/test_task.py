"""`train_model` through the queue: a worker as a user starts it, on real servers."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from bridge.client import BridgeClient
from bridge.errors import DatasetError, InvalidTrainingRequestError
from bridge.settings import Settings

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
async def client(rabbitmq, set_environment, tmp_path):
    variables = set_environment(rabbitmq, "training_test")
    log = tmp_path / "worker.log"
    with log.open("wb") as output:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            # From the project's root and without -P: the folder `triton` is importable.
            *("-m", "taskiq", "worker", "bridge.broker:training_broker", "--workers", "1"),
            *("-tp", "bridge/tasks/training.py", "-fsd"),
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(60):
            while "Listening started." not in log.read_text():
                assert worker.returncode is None, log.read_text()
                await asyncio.sleep(0.1)
        async with BridgeClient(Settings()) as client:
            yield client
        worker.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await worker.wait() == 0, log.read_text()
    finally:
        if worker.returncode is None:
            os.killpg(worker.pid, signal.SIGKILL)
            await worker.wait()


async def test_a_queued_training_reports_and_ends_in_a_live_model(client, trained):
    task = await client.train("few", {"architecture": "cnn", "model_id": "queued"}, {"epochs": 2})
    seen, deadline = [], time.monotonic() + 120
    waiting = asyncio.create_task(task.result(120))
    while not waiting.done():
        assert time.monotonic() < deadline
        progress = await task.progress()
        if progress is not None and progress not in seen:
            seen.append(progress)
        await asyncio.sleep(0.02)
    result = await waiting
    assert (result["model_name"], result["model_version"]) == ("queued", "1")
    # The same request with the same seed: the very same model.
    assert result["metrics"] == trained.outcome.result["metrics"]
    epochs = [progress["epoch"] for progress in seen if "epoch" in progress]
    assert epochs
    assert epochs == sorted(epochs)
    assert seen[-1] == {"stage": "publishing"}

    bad = await client.train("few", {"architecture": "vgg"})
    with pytest.raises(InvalidTrainingRequestError, match="installed are cnn, mlp"):
        await bad.result(30)
    missing = await client.train("nowhere", {"architecture": "mlp"})
    with pytest.raises(DatasetError, match="there is no dataset 'nowhere'"):
        await missing.result(30)
    for arguments in ((), ("few",), ("few", {"architecture": "mlp"}, {}, "more")):
        task_id, _ = await client._connections.send("training", "train_model", arguments)
        with pytest.raises(InvalidTrainingRequestError, match=r"must be an object|got 4 arguments"):
            await client.handle(task_id).result(30)
