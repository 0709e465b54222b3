"""What somebody sees who follows a training: the real command, on the screen of a terminal.

Most tests take the worker's part themselves: they write into a real Redis what a worker writes, by
the worker's own code. The last one follows a real training.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import uuid

import pyte
import pytest
from taskiq import TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress, TaskState

from bridge.embedded.redis import RedisServer
from bridge.errors import DatasetError
from bridge.jobs import Asking, Jobs
from bridge.results import RedisResults
from bridge.settings import Settings

WAIT_S = 60
# Ctrl-C comes from the terminal, so that has to be the one that controls the command.
_CONTROLLED = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
RESULT = {
    "model_name": "iris",
    "model_version": "1",
    "metrics": {"accuracy": 0.97, "loss": 0.09},
    "parity": {"rows": 30, "max_abs_difference": 1.2e-7},
    "duration_s": 9.4,
}


def report(epoch, **changes):
    curve = [[n, 1 / n, 0.5 + n / 100] for n in range(1, epoch + 1)]
    return {
        "epoch": epoch,
        "epochs": 15,
        "step": 23 * epoch,
        "steps": 345,
        "loss": 1.25 / epoch,
        "metric": "accuracy",
        "value": 0.5 + epoch / 100,
        "samples_per_s": 2570,
        "time_left_s": 67.2,
        "curve": curve,
        "slice": 1,
        "worker": "gpu-box:4711",
        "checkpoint": None,
        **changes,
    }


class Terminal:
    """A command in a terminal of a size, and what stands on its screen."""

    def __init__(self, arguments, environment, columns):
        self._screen = pyte.Screen(columns, 30)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        command = [sys.executable, "-P", "-m", "bridge", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", _CONTROLLED, *command],
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(self._ours, 65536):
                with self._lock:
                    self._stream.feed(data)

    @property
    def lines(self):
        """What a person sees: the lines that are not empty."""
        with self._lock:
            return [line.rstrip() for line in self._screen.display if line.strip()]

    async def shows(self, *texts):
        """Wait until all of them stand there."""
        deadline = time.monotonic() + WAIT_S
        while not all(text in "\n".join(self.lines) for text in texts):
            assert time.monotonic() < deadline, "\n".join(self.lines)
            await asyncio.sleep(0.05)
        return self.lines

    def press(self, key):
        os.write(self._ours, key)

    async def ended(self):
        """Its exit code, once all that it wrote is on the screen."""
        code = await asyncio.to_thread(self.process.wait, WAIT_S)
        await asyncio.to_thread(self._reader.join, WAIT_S)
        return code

    @property
    def cursor_hidden(self):
        return self._screen.cursor.hidden

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        os.close(self._ours)


class Worker:
    """Writes what a training worker writes; no training."""

    def __init__(self, settings):
        self.results = RedisResults(settings)
        queue = settings.taskiq_ml_training_queue
        self.jobs = Jobs(self.results.redis, queue, lease_s=600, keep_s=600)
        self.task_id = ""

    async def take(self):
        """The first training that somebody submits."""
        deadline = time.monotonic() + WAIT_S
        while not (found := await self.jobs.all()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        self.task_id = found[0].task_id
        self.token = (await self.claim()).number

    async def claim(self):
        return await self.jobs.claim(self.task_id, Asking("gpu-box:4711", b"{}"))

    async def say(self, progress):
        await self.results.set_progress(
            self.task_id, TaskProgress(state=TaskState.STARTED, meta=progress)
        )

    async def end(self, value=None, error=None):
        result = TaskiqResult(
            is_err=error is not None, return_value=value, error=error, execution_time=1.0
        )
        await self.results.set_result(self.task_id, result)
        await self.jobs.forget(self.task_id)


@pytest.fixture
def make_environment_for(tmp_path):
    """Variables of a terminal and of a queue of its own on a Redis."""

    def make(redis):
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return kept | {
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "TMPDIR": str(tmp_path),
            "BRIDGE_QUEUE": "redis-streams",
            "REDIS_URL": redis.url,
            "TASKIQ_ML_QUEUE": f"follow-{uuid.uuid4().hex[:8]}",
            "TASKIQ_ML_TRAINING_QUEUE": f"follow-training-{uuid.uuid4().hex[:8]}",
        }

    return make


@pytest.fixture
def environment(make_environment_for, redis_server):
    return make_environment_for(redis_server)


@pytest.fixture
async def worker(environment):
    async with working(environment) as worker:
        yield worker


@contextlib.asynccontextmanager
async def working(environment):
    worker = Worker(
        Settings(
            redis_url=environment["REDIS_URL"],
            taskiq_ml_queue=environment["TASKIQ_ML_QUEUE"],
            taskiq_ml_training_queue=environment["TASKIQ_ML_TRAINING_QUEUE"],
        )
    )
    try:
        yield worker
    finally:
        await worker.results.shutdown()


@pytest.fixture
def open_terminal(environment):
    opened = []

    def start(*arguments, columns=100):
        opened.append(Terminal(arguments, environment, columns))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


async def test_a_training_from_queue_to_model(open_terminal, worker):
    terminal = open_terminal("train", "iris", "-c", "target=species")
    await terminal.shows("training iris   queued", "task ")
    await worker.take()
    await terminal.shows("training iris   running", f"task {worker.task_id}")
    await worker.say(report(1))
    await terminal.shows("epoch 1/15", "no checkpoint yet")
    saved = {"epoch": 2, "step": 46, "saved_at": 1795521600.0}
    await worker.say(report(3, checkpoint=saved, slice=2))
    lines = await terminal.shows("epoch 3/15   step 69/345", "20%")
    assert lines[0].endswith("training iris   running")
    assert "━" in lines[1]
    assert lines[2] == "loss 0.4167   accuracy 0.53   2,570 samples/s   1 min 07 s left"
    assert lines[3].startswith("validation loss █▃▁ 1 to 0.3333")
    assert "checkpoint at epoch 2, step 46   slice 2   worker gpu-box:4711" in lines[4]
    assert len(lines) == 6  # what was there before is gone

    await worker.say({"stage": "publishing"})
    lines = await terminal.shows("training iris   publishing")
    assert "loss 0.4167   accuracy 0.53" in lines
    assert not [line for line in lines if " left" in line]
    await worker.end(RESULT)
    assert await terminal.ended() == 0
    lines = await terminal.shows("iris version 1, live")
    # The display stays, as it was last, and once; then comes the table.
    assert lines[0] == "training iris   succeeded"
    assert "\n".join(lines).count("epoch 3/15") == 1
    assert lines.index("trained") == 6
    assert not terminal.cursor_hidden


async def test_paused_and_handed_on(open_terminal, worker):
    terminal = open_terminal("train", "iris")
    await worker.take()
    await worker.say(report(3))
    await terminal.shows("training iris   running", "epoch 3/15")
    await worker.jobs.pause(worker.task_id)
    await terminal.shows("training iris   pausing")
    await worker.jobs.release(worker.task_id, worker.token)
    asking = Asking("gpu-box:4711", b"{}", baton=worker.token)
    assert (await worker.jobs.claim(worker.task_id, asking)).answer == "paused"
    await terminal.shows(f"training iris   paused (mlbridge resume {worker.task_id})", "epoch 3/15")
    await worker.jobs.resume(worker.task_id)
    await terminal.shows("training iris   queued", "epoch 3/15")


async def test_an_error_is_the_last_word(open_terminal, worker):
    terminal = open_terminal("train", "iris")
    await worker.take()
    await worker.say(report(2))
    await terminal.shows("epoch 2/15")
    await worker.end(error=DatasetError("column 'species' is gone"))
    assert await terminal.ended() == 1
    lines = terminal.lines
    assert lines[0] == "training iris   failed"
    assert lines[-1] == "DatasetError: column 'species' is gone"
    assert "\n".join(lines).count("epoch 2/15") == 1


async def test_an_id_that_nobody_knows(open_terminal, worker):
    terminal = open_terminal("follow", "typo")
    lines = await terminal.shows("no training of this id is known (yet)")
    assert lines[0].endswith("queued")
    worker.task_id = "typo"
    await worker.claim()
    await terminal.shows("running")
    assert "no training" not in "\n".join(terminal.lines)
    await worker.end(RESULT)
    assert await terminal.ended() == 0


async def test_a_narrow_terminal(open_terminal, worker):
    terminal = open_terminal("train", "iris", columns=60)
    await worker.take()
    long = [[n, 100 / n, 0.5] for n in range(1, 101)]
    await worker.say(
        report(1, curve=long, epochs=100, worker="a-machine-with-a-long-name.example:7")
    )
    lines = await terminal.shows("epoch 1/100")
    assert max(map(len, lines)) <= 60
    # Nothing is cut, and no figure is parted from its name.
    assert lines[2:4] == ["loss 1.25   accuracy 0.51   2,570 samples/s", "1 min 07 s left"]
    assert lines[4].startswith("validation loss █")
    assert lines[4].endswith(" 100 to 1")
    assert "worker a-machine-with-a-long-name.example:7" in lines
    await worker.say(report(2, epochs=100))
    await terminal.shows("epoch 2/100")
    assert "\n".join(terminal.lines).count("epoch") == 1


async def test_ctrl_c_leaves_the_training_and_says_how_to_come_back(open_terminal, worker):
    terminal = open_terminal("train", "iris")
    await worker.take()
    await worker.say(report(4))
    await terminal.shows("training iris   running", "epoch 4/15")
    terminal.press(b"\x03")
    assert await terminal.ended() == 130
    lines = terminal.lines
    assert lines[-2:] == [
        f"The training goes on. Follow it again: mlbridge follow {worker.task_id}",
        f"End it: mlbridge cancel {worker.task_id}",
    ]
    assert "\n".join(lines).count("epoch 4/15") == 1
    assert not [line for line in lines if "^C" in line or "Traceback" in line]
    assert not terminal.cursor_hidden
    job = await worker.jobs.find(worker.task_id)
    assert (job.state, job.pausing) == ("running", False)
    assert not await worker.results.redis.exists(worker.task_id)  # a cancelled one has its record

    again = open_terminal("follow", worker.task_id)
    await again.shows("running", "epoch 4/15")
    await worker.end(RESULT)
    assert await again.ended() == 0
    assert "iris version 1, live" in "\n".join(again.lines)


async def test_without_a_terminal_it_writes_lines(environment, worker, tmp_path):
    out, errors = tmp_path / "out", tmp_path / "errors"
    with out.open("wb") as output, errors.open("wb") as complaints:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "bridge", "train", "iris", "--json"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=complaints,
        )

    async def says(text):
        deadline = time.monotonic() + WAIT_S
        while text not in errors.read_text():
            assert time.monotonic() < deadline, errors.read_text()
            await asyncio.sleep(0.05)

    try:
        await says("queued\n")
        await worker.take()
        await worker.say(report(1))
        await says("running")
        await worker.say(report(2))
        await says("running, epoch 2/15, step 46/345, loss 0.625, accuracy 0.52, 2,570 samples/s")
        await worker.say({"stage": "publishing"})
        await says("publishing, epoch 2/15")
        await worker.end(RESULT)
        async with asyncio.timeout(WAIT_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = errors.read_text()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == f"following {worker.task_id}"
    assert lines[-1].startswith("succeeded, epoch 2/15")
    assert len(lines) == len(set(lines))
    assert json.loads(out.read_text()) == {"task_id": worker.task_id, **RESULT}


async def test_redis_away_is_told_and_passes(make_environment_for, state):
    async with RedisServer(state) as redis:
        environment = make_environment_for(redis)
        terminal = Terminal(("train", "iris"), environment, 100)
        try:
            async with working(environment) as worker:
                await _lose_redis(terminal, worker, redis)
        finally:
            terminal.close()


async def _lose_redis(terminal, worker, redis):
    await worker.take()
    await worker.say(report(4))
    await terminal.shows("epoch 4/15")
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        await terminal.shows("Redis does not answer; trying again", "epoch 4/15")
    finally:
        os.kill(redis.pid, signal.SIGCONT)
    await worker.say(report(5))
    lines = await terminal.shows("epoch 5/15")
    assert not [line for line in lines if "trying again" in line]


def test_a_real_training(stack):
    (stack.folder / "seen.csv").write_text(
        "a,b,label\n" + "".join(f"{n},1,low\n{n},9,high\n" for n in range(40))
    )
    assert stack.run("datasets", "add", "seen", "seen.csv").returncode == 0
    environment = {**stack.environment, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    terminal = Terminal(("train", "seen", "-s", "epochs=40"), environment, 80)
    try:
        asyncio.run(_watch(terminal))
    finally:
        terminal.close()


async def _watch(terminal):
    assert await terminal.ended() == 0
    lines = terminal.lines
    assert lines[0] == "training seen   succeeded"
    assert lines[1].startswith("epoch 40/40   step ")
    assert lines[1].endswith("100%")
    text = "\n".join(lines)
    assert "validation loss" in text
    assert "worker " in text
    assert "seen version 1, live" in text
