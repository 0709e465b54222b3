"""Trainings whose checkpoints lie in S3: another machine goes on, and no upload holds them up."""

import asyncio
import os
import subprocess
import sys
import uuid

import pytest

from bridge.errors import CheckpointError, outcome_of
from bridge.training import checkpoint_bucket
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn

MODEL = {"architecture": "cnn", "model_id": "elsewhere"}
LONG = {"epochs": 400, "batch_size": 8}


@pytest.fixture
def root(s3_server, monkeypatch):
    for name, value in s3_server.variables.items():
        if name != "BRIDGE_PAYLOAD_URL":
            monkeypatch.setenv(name, value)
    return f"s3://{s3_server.bucket}/trainings/{uuid.uuid4().hex}"


@pytest.fixture
def on(settings, fake_triton, root, tmp_path):
    """The training on a machine of this name; they share nothing but S3 and the datasets."""

    def on(machine, every_s=1000):
        ours = type(settings)(
            dataset_root=settings.dataset_root,
            model_repository=tmp_path / machine / "models",
            checkpoint_root=root,
            bridge_work_root=tmp_path / machine / "work",
            bridge_checkpoint_every_s=every_s,
        )
        request = parse_request("few", MODEL, LONG, ours)
        return Training(request, "t", ours, fake_triton)

    return on


async def test_another_machine_goes_on_and_a_slow_upload_holds_nothing_up(
    on, root, tmp_path, monkeypatch
):
    begun, let, turn, steps = asyncio.Event(), asyncio.Event(), Turn(1, 1, "here"), []
    put = checkpoint_bucket.CheckpointBucket.put

    async def slow(self, job, name, file):
        begun.set()
        await let.wait()
        await put(self, job, name, file)

    async def watch(record):
        if begun.is_set() and "step" in record:
            assert record["checkpoint"] is None  # none is kept as yet
            steps.append(record["step"])
            if len(set(steps)) == 3:
                turn.stop.set()
                let.set()

    monkeypatch.setattr(checkpoint_bucket.CheckpointBucket, "put", slow)
    training = on("here", every_s=0.1)
    assert await training.go_on(turn, watch) is None
    assert steps[-1] > steps[0]  # it went on while the first upload did
    assert training.progressed
    assert list((tmp_path / "here" / "work").iterdir()) == []
    checkpoint, _ = await on("there").checkpoints.newest(tmp_path)
    assert checkpoint.facts["step"] >= steps[-1]  # the last one is there

    turn, seen = Turn(2, 2, "there"), []

    async def stop(record):
        seen.append(record)
        turn.stop.set()

    assert await on("there").go_on(turn, stop) is None
    assert seen[0]["step"] > checkpoint.facts["step"]
    assert seen[0]["checkpoint"]["step"] == checkpoint.facts["step"]

    logs = subprocess.run(  # noqa: ASYNC221 - nothing else waits
        [sys.executable, "-P", "-m", "bridge", "logs", "t"],
        env={**os.environ, "CHECKPOINT_ROOT": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert logs.stdout.count("---- slice") == 2, logs.stderr
    assert "slice 2, there" in logs.stdout


async def test_a_store_that_is_not_there_ends_the_task_with_what_to_do(pool, root):
    del root
    worker = await pool.start(CHECKPOINT_ROOT="s3://nobodys/x", BRIDGE_MAX_RETRIES="1")
    handle = await pool.client.train("few", {**MODEL, "model_id": "nowhere"}, LONG)
    with pytest.raises(CheckpointError, match="that its bucket is there") as raised:
        await handle.result(120)
    assert outcome_of(raised.value).value == "failed"
    assert pool.log(worker).count("Traceback") == 0, pool.log(worker)
    assert "not-a-secret" not in pool.log(worker)
