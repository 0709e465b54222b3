"""Two processes of the CPU train together, as several GPUs would."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile

import numpy as np
import psutil
import pytest

from bridge.errors import (
    CheckpointError,
    DatasetError,
    InvalidTrainingRequestError,
    TrainingCrashedError,
    TrainingFailedError,
)
from bridge.training import devices
from bridge.training.examples import Rows
from bridge.training.feed import Feed, batches_an_epoch
from bridge.training.process import Listeners, Piece, train_in_process
from bridge.training.request import parse_request


def test_each_process_takes_its_share_of_every_batch():
    x = np.arange(45, dtype=np.float32)[:, None]
    rows = Rows(x, np.arange(45))
    alone = Feed(rows, 10, seed=3)
    together = [Feed(rows, 10, seed=3, place=(rank, 2)) for rank in range(2)]
    assert [len(feed) for feed in (alone, *together)] == [5, 5, 5]
    for _ in range(2):  # epochs
        for whole, *parts in zip(alone, *together, strict=True):
            assert [len(part[1]) for part in parts] == [
                (len(whole[1]) + 1) // 2,
                len(whole[1]) // 2,
            ]
            found = np.concatenate([part[1] for part in parts])
            assert sorted(found) == sorted(whole[1].tolist())


@pytest.mark.parametrize(
    ("rows", "world", "batches"), [(41, 1, 4), (42, 1, 5), (43, 2, 4), (44, 2, 5), (4, 2, 1)]
)
def test_a_last_batch_too_small_to_be_shared_is_left_out(rows, world, batches):
    assert batches_an_epoch(rows, 10, world) == batches


def test_rows_that_cannot_be_shared():
    with pytest.raises(DatasetError, match="3 rows to train on cannot be shared by 2 devices"):
        batches_an_epoch(3, 10, 2)


def test_more_devices_than_there_are(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InvalidTrainingRequestError, match=r"2 were asked for, and .* has 1"):
        devices.launch(lambda *_: None, {}, 2, lambda *_: None)


async def run(settings, tmp_path, hyperparameters, *, on_progress=None, piece=None, **model):
    request = parse_request("few", {"architecture": "cnn", **model}, hyperparameters, settings)
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    seen = []

    async def progress(record):
        seen.append(record)
        if on_progress is not None:
            on_progress()

    async def checkpoint(file, facts):
        pass

    listeners = Listeners(lambda _: None, progress, checkpoint)
    outcome = await train_in_process(
        request, folder, settings.dataset_root, piece or Piece(), listeners
    )
    return outcome, seen


def trainers():
    """The processes that the training process has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "multiprocessing.spawn" in " ".join(process.cmdline()):
                found.append(process)
    return found


async def test_two_processes_make_one_model(settings, tmp_path):
    most, groups, listening = [], set(), set()

    def look():
        most.append(len(trainers()))
        groups.update(os.getpgid(process.pid) for process in trainers())
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                sockets = process.net_connections("tcp")
                if "bridge.training.child" in process.cmdline() or process in trainers():
                    listening.update(s.laddr.ip for s in sockets if s.status == "LISTEN")

    outcome, seen = await run(
        settings,
        tmp_path,
        {"epochs": 3, "devices": 2, "learning_rate": 0.01, "patience": 2},
        on_progress=look,
    )
    assert max(most) == 2
    assert listening == {"127.0.0.1"}
    # One group, not ours: cancelling kills the group.
    assert len(groups - {os.getpgid(0)}) == len(groups) == 1
    assert outcome.result["hyperparameters"]["devices"] == 2
    assert outcome.result["metrics"]["accuracy"] > 0.5
    assert outcome.result["parity"]["class_agreement"] == 1.0
    # Steps are those of one process, and every record came once.
    assert [(one["epoch"], one["step"]) for one in seen if one["step"] % 20 == 0] == [
        (1, 20),
        (2, 40),
        (3, 60),
    ]
    assert trainers() == []


def refuse_checkpoints(folder, steps):
    """Whoever writes one is led into a folder that is not there."""
    folder.mkdir()
    refused = [folder / f"step-{step}.ckpt" for step in range(1, steps + 1)]
    for path in refused:
        path.symlink_to(folder / "none" / path.name)
    return refused


async def test_they_go_on_together_without_a_checkpoint_that_cannot_be_written(settings, tmp_path):
    refused = refuse_checkpoints(tmp_path / "work", 60)
    piece = Piece(checkpoint_every_s=0.01)
    async with asyncio.timeout(120):  # the second waits half an hour for the first
        outcome, _ = await run(settings, tmp_path, {"epochs": 3, "devices": 2}, piece=piece)
    assert outcome is not None
    assert sum(not path.is_symlink() for path in refused) > 1  # those that were tried


async def test_a_last_checkpoint_that_cannot_be_written_is_told_by_all(settings, tmp_path):
    refuse_checkpoints(tmp_path / "work", 1000)
    piece = Piece(length_s=0.01)
    with pytest.raises(CheckpointError, match="cannot write a checkpoint into"):
        async with asyncio.timeout(120):
            await run(settings, tmp_path, {"epochs": 50, "devices": 2}, piece=piece)
    assert trainers() == []


async def test_an_error_keeps_its_class_and_words(settings, tmp_path):
    with pytest.raises(InvalidTrainingRequestError, match="there are no labels 'ten'"):
        await run(settings, tmp_path, {"devices": 2, "class_weights": {"ten": 2}})
    assert trainers() == []


IN_VAIN = """
import multiprocessing, os, sys, time
from bridge.training import devices

def work(job, report, stop):
    raise ValueError("a mistake")

os.environ["LOCAL_WORLD_SIZE"] = "1"
devices.distributed.is_initialized = lambda: True
devices.distributed.destroy_process_group = lambda: time.sleep(1000)  # for the others
context = multiprocessing.get_context("spawn")
lines = context.SimpleQueue()
if os.fork() == 0:
    devices._run(os.getppid(), work, {}, lines, context.Event())
print(os.waitstatus_to_exitcode(os.wait()[1]), *lines.get())
"""


def test_whoever_fails_waits_for_nobody():
    ran = subprocess.run(
        [sys.executable, "-P", "-c", IN_VAIN],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout.startswith("1 error {'class': 'TrainingFailedError'")
    assert "ValueError: a mistake" in ran.stdout
    assert "Traceback" in ran.stderr


@pytest.mark.usefixtures("architectures_of_a_user")
async def test_what_an_architecture_of_the_users_raises_is_told(settings, tmp_path):
    model = {"architecture": "failing", "options": {"how": "mistake"}}
    with pytest.raises(TrainingFailedError, match="ZeroDivisionError: a mistake") as raised:
        await run(settings, tmp_path, {"devices": 2}, **model)
    assert type(raised.value) is TrainingFailedError
    assert trainers() == []


async def test_the_death_of_one_ends_all(settings, tmp_path, monkeypatch):
    (temporary := tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    killed = []

    def kill():
        if not killed:
            killed.append(trainers()[1])
            killed[0].kill()

    with pytest.raises(TrainingCrashedError, match=r"process of device \d was killed by SIGKILL"):
        await run(settings, tmp_path, {"epochs": 10_000, "devices": 2}, on_progress=kill)
    assert trainers() == []
    assert list(temporary.iterdir()) == []  # torch leaves a file for each process's error
