"""A training in slices, in real processes: what one leaves, the next goes on from."""

import asyncio
import contextlib

import psutil
import pytest

from bridge.errors import (
    CheckpointError,
    LeaseLostError,
    TrainingCrashedError,
    TrainingFailedError,
    TrainingMemoryError,
    TritonUnavailableError,
)
from bridge.training.checkpoints import room
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn

MODEL = {"architecture": "cnn", "model_id": "sliced"}


async def ignore(_record):
    pass


@pytest.fixture
def begin(settings, fake_triton):
    def begin(task_id="t", **changes):
        ours = settings.model_copy(update=changes)
        parameters = {"epochs": 400 if changes else 2, "batch_size": 8}
        return Training(parse_request("few", MODEL, parameters, ours), task_id, ours, fake_triton)

    return begin


def child():
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "bridge.training.child" in process.cmdline():
                return process
    raise AssertionError("no training process")


async def test_a_stopped_slice_leaves_a_checkpoint_that_the_next_goes_on_from(begin, tmp_path):
    seen = []

    async def stop_soon(record):
        seen.append(record)
        if "step" in record:
            turn.stop.set()

    turn = Turn(3, 1, "somebody")
    assert await begin(bridge_checkpoint_every_s=1000).go_on(turn, stop_soon) is None
    assert seen[0]["worker"] == "somebody"
    assert seen[0]["checkpoint"] is None
    checkpoint, _ = await begin(bridge_checkpoint_every_s=1000).checkpoints.newest(tmp_path)
    assert checkpoint.token == 3
    assert checkpoint.facts["step"] > 0
    # Another request under the same id begins at the beginning.
    assert await begin().checkpoints.newest(tmp_path) is None

    seen.clear()
    turn = Turn(4, 2, "another")
    assert await begin(bridge_checkpoint_every_s=1000).go_on(turn, stop_soon) is None
    assert seen[0]["step"] > checkpoint.facts["step"]
    assert seen[0]["slice"] == 2
    assert seen[0]["checkpoint"]["step"] == checkpoint.facts["step"]
    log = await begin().checkpoints.read_log()
    assert log.count(b"---- slice") == 2
    assert b"another" in log


async def test_a_slice_that_is_stopped_before_it_begins_ends_at_once(begin):
    turn = Turn()
    turn.stop.set()
    training = begin(bridge_training_slice_s=1000)
    assert await training.go_on(turn, ignore) is None
    assert not training.progressed


async def test_a_slice_ends_after_its_time(begin):
    training = begin(bridge_training_slice_s=0.5)
    assert await training.go_on(Turn(), ignore) is None
    assert training.progressed


async def test_a_killed_process_costs_what_came_after_its_checkpoint(begin, tmp_path):
    async def kill(record):
        if record.get("checkpoint"):
            child().kill()

    training = begin(bridge_checkpoint_every_s=0.1)
    with pytest.raises(TrainingCrashedError, match="killed by SIGKILL"):
        await training.go_on(Turn(), kill)
    assert training.progressed
    assert (await training.checkpoints.newest(tmp_path))[0].facts["step"] > 0


async def test_who_has_lost_the_training_cannot_write(begin, tmp_path):
    successor = begin(bridge_checkpoint_every_s=0.1)

    async def overtake(_record):
        if await successor.checkpoints.floor() < 9:
            file = tmp_path / "file"
            file.write_bytes(b"theirs")
            await successor.checkpoints.keep(9, file, {"step": 1, "sha256": ""})

    training = begin(bridge_checkpoint_every_s=0.1)
    with pytest.raises(LeaseLostError):
        await training.go_on(Turn(5), overtake)
    assert await training.checkpoints.floor() == 9

    async def lost():
        raise LeaseLostError("another worker has it")

    with pytest.raises(LeaseLostError):
        await begin("short").go_on(Turn(1, confirm=lost), ignore)


async def test_a_trained_model_waits_for_triton_without_being_trained_again(
    begin, fake_triton, settings
):
    fake_triton.down = True
    with pytest.raises(TritonUnavailableError):
        await begin().go_on(Turn(), ignore)
    fake_triton.down = False
    seen = []

    async def note(record):
        seen.append(record)

    result = await begin().go_on(Turn(2, 2), note)
    assert seen == [{"stage": "publishing"}]
    assert result["model_version"] == "1"
    left = sorted(path.name for path in (settings.checkpoint_root / "jobs" / room("t")).iterdir())
    assert [name[:4] for name in left] == ["log-", "log-"]


async def test_limits_of_time_and_memory_are_clear_errors(begin):
    with pytest.raises(TrainingFailedError, match=r"longer than the 0.1 s that BRIDGE_TRAINING_LI"):
        await begin(bridge_training_limit_s=0.1).go_on(Turn(), ignore)
    with pytest.raises(TrainingMemoryError, match="BRIDGE_TRAINING_MEMORY_BYTES allows 100,000,00"):
        await begin(bridge_training_memory_bytes=100_000_000).go_on(Turn(), ignore)


async def test_a_place_that_takes_no_checkpoints_is_told(begin, settings):
    settings.checkpoint_root.mkdir()
    (settings.checkpoint_root / "jobs").write_text("in the way")
    training = begin(bridge_training_slice_s=0.2)
    with pytest.raises(
        CheckpointError, match=r"cannot write checkpoints in .*; CHECKPOINT_ROOT must be a folder"
    ):
        await training.go_on(Turn(), ignore)
    assert not training.progressed


async def test_cancelling_a_slice_kills_its_process(begin):
    started = asyncio.Event()

    async def note(_record):
        started.set()

    task = asyncio.create_task(begin(bridge_checkpoint_every_s=0.1).go_on(Turn(), note))
    await asyncio.wait_for(started.wait(), 60)
    process = child()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not process.is_running()
