"""Trainings of one pool share its processors, and say so to OpenMP; a user's word counts more."""

import asyncio
import contextlib
import os
import time

import psutil
import pytest

from bridge.training import threads
from bridge.training.process import Listeners, Piece, train_in_process
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn

CNN = {"architecture": "cnn", "model_id": "threads"}
WORKER = ["taskiq", "worker", "bridge.broker:training_broker", "bridge.tasks.training"]


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture
def eight(monkeypatch, tmp_path):
    """A machine with eight processors, and no container."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    monkeypatch.setattr(threads, "_CGROUP", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ([*WORKER, "--workers", "3", "--max-async-tasks", "1"], 3),
        ([*WORKER, "-w", "5"], 5),
        ([WORKER[0], *WORKER[2:], "--workers=4"], 4),  # as `mlbridge worker` starts it
        (WORKER, 2),  # taskiq's own default
        (["something", "--else"], 1),
        (["something"], 1),
    ],
)
def test_the_pool_has_so_many_workers_as_taskiq_starts(arguments, size, capsys):
    assert threads.pool_size(arguments) == size
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("at_once", "fixed", "began_with", "said", "wanted"),
    [
        (1, None, None, "", 8),
        (3, None, None, "", 2),
        (20, None, None, "", 1),
        (3, 6, None, "", 6),
        (3, 6, 2, "5", 5),
        (3, None, None, "4,2", 4),  # one for each level of nesting
        (3, None, None, "many", 2),
        (1, None, 2, "", 2),  # it goes on elsewhere
        (1, None, 16, "", 8),  # where there are fewer
        (1, 3, 2, "", 3),
    ],
)
def test_how_many(at_once, fixed, began_with, said, wanted, monkeypatch, caplog):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads.threads_for(at_once, fixed, began_with) == wanted
    assert ("last bits" in caplog.text) == (began_with not in {None, wanted})


@pytest.mark.parametrize(
    ("quota", "wanted"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("?", 8)]
)
def test_a_container_may_have_fewer(eight, quota, wanted):
    (eight / "cpu.max").write_text(quota)
    assert threads.processors() == wanted


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    found = threads.environment(3)
    assert (found["OMP_NUM_THREADS"], found["KMP_BLOCKTIME"]) == ("3", "0")
    assert found["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.environment(3)["OMP_NUM_THREADS"] == "2"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS" not in threads.environment(None)


async def ignore(*_):
    pass


@pytest.mark.parametrize(("said", "wanted"), [(None, 1), ("2", min(2, threads.processors()))])
async def test_torch_computes_with_so_many(settings, tmp_path, monkeypatch, said, wanted):
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    request = parse_request("few", CNN, {"epochs": 1}, settings)
    listeners = Listeners(lambda _: None, ignore, ignore)
    piece = Piece(threads=1)
    outcome = await train_in_process(request, tmp_path, settings.dataset_root, piece, listeners)
    assert outcome.result["threads"] == wanted


@pytest.mark.usefixtures("eight")
async def test_a_training_keeps_the_number_that_it_began_with(settings, fake_triton, tmp_path):
    ours = settings.model_copy(update={"bridge_checkpoint_every_s": 1000.0})

    async def stop_soon(record):
        if "step" in record:
            turn.stop.set()

    found = []
    for token, at_once in enumerate((4, 1), 1):
        turn = Turn(token, token, at_once=at_once)
        request = parse_request("few", CNN, {"epochs": 400, "batch_size": 8}, ours)
        training = Training(request, "t", ours, fake_triton)
        assert await training.go_on(turn, stop_soon) is None
        found.append((await training.checkpoints.newest(tmp_path))[0].facts["threads"])
    assert found == [2, 2]


async def test_the_workers_of_a_pool_share_the_processors(pool):
    worker = await pool.start(workers=2)
    request = ("few", CNN, {"epochs": 100_000, "batch_size": 8})
    handle = await pool.client.train(*request)
    variables, ends = None, time.monotonic() + 60
    while variables is None and time.monotonic() < ends:
        await asyncio.sleep(0.05)
        for process in pool.processes(worker):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "bridge.training.child" in process.cmdline():
                    variables = process.environ()
    assert variables is not None, pool.log(worker)
    assert variables["OMP_NUM_THREADS"] == str(max(1, threads.processors() // 2))
    assert variables["GOMP_SPINCOUNT"] == "0"
    await handle.cancel(now=True)
