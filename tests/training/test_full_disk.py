"""A disk that fills while a network trains: a real one, of 48 MB, which only root may mount."""

import asyncio
import contextlib
import os
import subprocess

import pytest

from bridge.errors import CheckpointError
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn

WIDE = {"architecture": "mlp", "model_id": "full-disk", "options": {"hidden": [512, 512]}}
LONG = {"epochs": 10_000, "batch_size": 8}
CUT_SHORT = "only root may mount a small disk: run it as root, or what a full disk does is not seen"


@pytest.fixture
def disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip(CUT_SHORT)
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "small", str(folder)]
    ran = subprocess.run(mount, capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip(f"{CUT_SHORT}: {ran.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Take what is left, but for less than a checkpoint: writing one begins, and fails."""
    with (folder / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize > 1_000_000:
            file.write(bytes(100_000))


async def test_what_was_saved_stays_good_and_the_training_goes_on(disk, settings, fake_triton):
    def begin(every_s=1000):
        changes = {"checkpoint_root": disk / "root", "bridge_checkpoint_every_s": every_s}
        ours = settings.model_copy(update=changes)
        return Training(parse_request("few", WIDE, LONG, ours), "t", ours, fake_triton)

    turn, steps = Turn(1), []

    async def fill_then_stop(record):
        if record.get("checkpoint"):
            fill(disk)  # each time: one that was on its way took the place of an older one
            steps.append(record["step"])
        if len(steps) == 4:
            turn.stop.set()

    training = begin(every_s=0.1)
    with pytest.raises(
        CheckpointError, match=r"cannot write a checkpoint into .*; free room there"
    ):
        await training.go_on(turn, fill_then_stop)
    assert steps[-1] > steps[0]  # it went on without
    files = [path for path in disk.rglob("*") if path.is_file() and path.name != "ballast"]
    assert {path.suffix for path in files} <= {".ckpt", ".json", ".txt"}
    assert len([path for path in files if path.suffix == ".ckpt"]) <= 2
    assert all("jobs" in path.parts for path in files)  # nothing half-written stays
    found = await begin().checkpoints.newest(disk)
    assert found is not None
    assert 0 < found[0].facts["step"] < steps[-1]

    (disk / "ballast").unlink()
    turn, seen = Turn(2, 2), []

    async def stop(record):
        seen.append(record)
        turn.stop.set()

    assert await begin().go_on(turn, stop) is None
    assert seen[0]["checkpoint"]["step"] == found[0].facts["step"]
    assert seen[0]["step"] > found[0].facts["step"]
    assert (await begin().checkpoints.newest(disk))[0].token == 2


async def test_a_disk_that_stays_full_ends_the_task_with_what_to_do(disk, pool):
    (disk / "root").mkdir()
    fill(disk)
    settings = {"BRIDGE_TRAINING_SLICE_S": "0.2", "BRIDGE_MAX_RETRIES": "1"}
    await pool.start(CHECKPOINT_ROOT=str(disk / "root"), **settings)
    handle = await pool.client.train("few", WIDE, LONG)
    said = "set BRIDGE_WORK_ROOT to a local folder that has"
    while said not in (await handle.progress() or {}).get("hindered", ""):
        await asyncio.sleep(0.2)
    assert await pool.client.job(handle.task_id) is not None  # it is told before the end
    with pytest.raises(CheckpointError, match=said):
        await handle.result(300)
    assert not list(disk.rglob("*.ckpt"))
    assert pool.versions("full-disk") == []
