"""The training process that is kept ready, as a real process."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest

from bridge.embedded.ports import free_ports
from bridge.errors import TrainingFailedError
from bridge.training.child import BUSY, WAITING
from bridge.training.process import LOG_FILE, Listeners, Piece, train_in_process
from bridge.training.request import parse_request
from bridge.training.starting import Spare, start
from bridge.training.threads import environment

CNN = {"architecture": "cnn"}


async def ignore(*_):
    """Hear nothing."""


def called(name, of=None):
    """Processes of this name that this one has started, or anywhere below another.

    Not below this one: what other tests have left running for those to come has some of its own.
    """
    found = []
    for process in psutil.Process(of).children(recursive=of is not None):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() == name:
                found.append(process.pid)
    return found


def scratch_folder_of(pid):
    """Where it has its temporary files."""
    return Path(psutil.Process(pid).environ()["TMPDIR"])


async def one_called(name, of=None):
    """Its pid, as soon as there is one."""
    async with asyncio.timeout(60):
        while not (found := called(name, of)):
            await asyncio.sleep(0.02)
    assert len(found) == 1
    return found[0]


@pytest.fixture
async def get_ready():
    """Makes one that is ready, or about to be; not before the test, as pytest sets variables."""
    async with AsyncExitStack() as exits:

        async def get_ready():
            spare = Spare(kept=True)
            exits.push_async_callback(spare.close)
            spare.prepare(environment(None))
            return spare, await one_called(WAITING)

        yield get_ready


@pytest.fixture
def train(settings, tmp_path):
    """Trains in the folder that it returns too, with the pid of who did."""

    async def train(spare, model=CNN, hyperparameters=None, **piece):
        request = parse_request("few", model, hyperparameters or {"epochs": 2}, settings)
        folder, pids = tmp_path / f"work-{time.monotonic_ns()}", set()
        folder.mkdir()
        listeners = Listeners(lambda _: pids.update(called(BUSY)), ignore, ignore)
        outcome = await train_in_process(
            request, folder, settings.dataset_root, Piece(**piece), listeners, spare=spare
        )
        (pid,) = pids
        return outcome, folder, pid

    return train


async def test_the_next_training_takes_it_and_comes_to_the_same(get_ready, train, trained):
    spare, ready = await get_ready()
    outcome, folder, pid = await train(spare)
    assert pid == ready
    assert outcome.result["metrics"] == trained.outcome.result["metrics"]
    with (
        np.load(folder / "probe.npz") as here,
        np.load(trained.folder / "probe.npz") as there,
    ):
        assert np.array_equal(here["answers"], there["answers"])
    following = await one_called(WAITING)
    assert following != ready
    assert not psutil.pid_exists(ready)
    await spare.close()
    assert not psutil.pid_exists(following)
    spare.prepare(environment(None))  # it has retired
    assert await spare.take(environment(None)) is None
    assert not called(WAITING)


@pytest.mark.usefixtures("architectures_of_a_user")
async def test_what_it_prints_and_leaves_behind_is_the_trainings(
    get_ready, train, tmp_path, monkeypatch
):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)  # torch sets it, here too
    spare, ready = await get_ready()
    scratch = scratch_folder_of(ready)
    with pytest.raises(TrainingFailedError, match="ZeroDivisionError"):
        await train(spare, {"architecture": "failing", "options": {"how": "words"}})
    assert not psutil.pid_exists(ready)
    (log,) = tmp_path.glob(f"work-*/{LOG_FILE}")
    told = log.read_text()
    assert f"temporary files go into {scratch}\n" in told
    assert f"compiled code goes into {scratch}/" in told
    assert "a mistake of the user's" in told
    assert not scratch.exists()


async def test_one_that_has_died_is_replaced(get_ready, train):
    spare, ready = await get_ready()
    psutil.Process(ready).kill()
    async with asyncio.timeout(10):
        while psutil.pid_exists(ready):
            await asyncio.sleep(0.02)
    outcome, _, pid = await train(spare)
    assert outcome is not None
    assert pid != ready


async def close(spare):
    await spare.close()


async def take(spare):
    assert await spare.take(environment(None)) is None


@pytest.mark.parametrize("end", [close, take])
async def test_one_that_has_died_long_ago_is_not_killed(get_ready, monkeypatch, end):
    spare, ready = await get_ready()
    child, scratch = await spare._starting[0], scratch_folder_of(ready)
    psutil.Process(ready).kill()
    await child.process.wait()
    # Its number may be that of others by now.
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("somebody else was killed"))
    await end(spare)
    assert not scratch.exists()


@pytest.mark.parametrize("end", [close, take])
async def test_one_that_begins_as_who_waits_for_it_is_cancelled_is_ended(monkeypatch, end):
    begun, scratch = [], []

    async def start_and_cancel(variables):
        begun.append(await start(variables))
        scratch.append(scratch_folder_of(begun[0].process.pid))
        asyncio.get_running_loop().call_soon(waiting.cancel)
        return begun[0]

    monkeypatch.setattr("bridge.training.starting.start", start_and_cancel)
    spare = Spare(kept=True)
    spare.prepare(environment(None))
    waiting = asyncio.create_task(end(spare))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    try:
        assert begun[0].process.returncode == -signal.SIGKILL
        assert not scratch[0].exists()
    finally:
        await begun[0].end()


async def test_starting_one_that_is_cancelled_leaves_no_descriptors():
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for steps in range(3):
        starting = asyncio.create_task(start(environment(None)))
        for _ in range(steps + 1):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await asyncio.sleep(0.1)  # the loop closes what was closed
    assert descriptors() == before


async def test_other_variables_need_another_process(get_ready, train):
    spare, ready = await get_ready()
    _, _, pid = await train(spare, threads=1)
    assert pid != ready
    assert not psutil.pid_exists(ready)  # it would be of no use, and in memory all the time
    following = await one_called(WAITING)
    _, _, pid = await train(spare, threads=1)
    assert pid == following


async def test_there_is_none_where_memory_is_short(monkeypatch):
    monkeypatch.setattr("bridge.training.starting.free_memory", lambda: 1_999_999_999)
    spare = Spare(kept=True)
    spare.prepare(environment(None))
    assert await spare.take(environment(None)) is None


async def test_it_is_made_ready_before_a_slice_ends(train):
    spare = Spare(kept=True)
    before = []

    async def watch():
        await one_called(BUSY)
        before.append(await one_called(WAITING))

    watching = asyncio.create_task(watch())
    outcome, _, pid = await train(spare, hyperparameters={"epochs": 100_000}, length_s=5.0)
    assert outcome is None
    await watching
    assert before[0] != pid
    assert await one_called(WAITING) == before[0]
    await spare.close()


PARENT = """
import asyncio
from bridge.training.starting import Spare, start
from bridge.training.threads import environment
async def main():
    Spare(kept=True).prepare(environment(None))
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_it_dies_with_its_parent():
    parent = await asyncio.create_subprocess_exec(sys.executable, "-P", "-c", PARENT)
    ready = psutil.Process(await one_called(WAITING, parent.pid))
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(10):
        while ready.is_running() and ready.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)


async def test_a_worker_keeps_one_until_it_stops(pool):
    # What serves the metrics sets a variable of its own.
    worker = await pool.start(BRIDGE_METRICS_PORT=str(free_ports(1)[0]))
    ready = await one_called(WAITING, worker.pid)
    handle = await pool.client.train("few", CNN, {"epochs": 100_000})
    assert await one_called(BUSY, worker.pid) == ready
    await handle.cancel(now=True)
    following = await one_called(WAITING, worker.pid)
    assert following != ready
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(worker.wait(), 60) == 0
    assert not psutil.pid_exists(following)


async def test_a_worker_keeps_none_where_it_is_told_so(pool):
    worker = await pool.start(BRIDGE_TRAINING_SPARE="false")
    handle = await pool.client.train("few", CNN, {"epochs": 1})
    await handle.result(timeout_s=120)
    assert not called(WAITING, worker.pid)
