"""A worker as the template starts it, on the session's real RabbitMQ, Redis and Triton."""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest

from bridge.client import BridgeClient
from bridge.queues import build_broker
from bridge.settings import Settings

ROOT = Path(__file__).parent.parent.parent
# As the template's README writes it, word for word.
TEMPLATE_COMMAND = shlex.split(
    "-m taskiq worker bridge.broker:broker --use-process-pool --workers 3 -fsd"
    " -tp 'bridge/tasks/*.py'"
)


class WorkerProcess:
    """A taskiq worker as a child process, with its log."""

    def __init__(self, log: Path):
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, arguments, environment, processes, cwd=ROOT):
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                cwd=cwd,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while self.log.read_text().count("Listening started.") < processes:
            assert self.process.returncode is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            await asyncio.sleep(0.1)

    async def stop(self):
        """SIGTERM, and the exit code; the group is killed if it does not end."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(30):
                return await self.process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def environment(rabbitmq, redis_server, triton, model_repository, tmp_path_factory):
    """What a worker or client needs to reach the session's servers."""
    folder = tmp_path_factory.mktemp("worker")
    return {
        **{k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG", "TMPDIR"}},
        "RABBITMQ_HOST": "127.0.0.1",
        "RABBITMQ_PORT": str(rabbitmq.port),
        "RABBITMQ_USERNAME": rabbitmq.username,
        "RABBITMQ_PASSWORD": rabbitmq.password,
        "REDIS_URL": redis_server.url,
        "TRITON_URL": triton.address,
        "MODEL_REPOSITORY": str(model_repository),
        "DATASET_ROOT": str(folder / "datasets"),
        "CHECKPOINT_ROOT": str(folder / "checkpoints"),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture(scope="session")
def settings(environment):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return Settings()


@pytest.fixture(scope="session")
async def worker(environment, tmp_path_factory):
    worker = WorkerProcess(tmp_path_factory.mktemp("worker") / "worker.log")
    await worker.start(TEMPLATE_COMMAND, environment, processes=3)
    yield worker
    await worker.stop()


async def started_workers(folder):
    """Gives a function that starts workers, with arguments and environment of their own."""
    started = []

    async def start(arguments, environment, *, processes=1, cwd=ROOT):
        worker = WorkerProcess(folder / f"worker-{len(started)}.log")
        started.append(worker)
        await worker.start(arguments, environment, processes, cwd)
        return worker

    yield start
    for worker in started:
        await worker.stop()


@pytest.fixture
async def new_worker(tmp_path):
    """Start workers for a test."""
    async for start in started_workers(tmp_path):
        yield start


@pytest.fixture(scope="module")
async def module_worker(tmp_path_factory):
    """Start workers for all tests of a module."""
    async for start in started_workers(tmp_path_factory.mktemp("workers")):
        yield start


@pytest.fixture(scope="session")
async def client(worker, settings):
    async with BridgeClient(settings) as client:
        yield client


@contextlib.asynccontextmanager
async def _listening(settings, shortcut, *middlewares, idle_ms=None):
    broker = build_broker(settings, "inference")
    broker.is_worker_process = True
    broker.add_middlewares(*middlewares)
    if idle_ms is not None:
        broker.idle_timeout = idle_ms
    broker.intake.shortcuts["t"] = shortcut
    await broker.startup()

    async def listen():
        async for _ in broker.listen():
            pytest.fail("a task without a shortcut")

    task = asyncio.create_task(listen())
    try:
        yield broker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await broker.shutdown()


@pytest.fixture
def listening():
    """A worker's broker in this process, for a block; a shortcut runs the tasks called `t`."""
    return _listening
