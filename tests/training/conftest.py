"""Small real data, and a Triton that behaves like one without being one."""

import asyncio
import os
import re
import shutil
import signal
import sys
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import psutil
import pytest
from sklearn.datasets import load_digits

from bridge.client import BridgeClient
from bridge.errors import (
    ModelLoadError,
    RestrictedError,
    TritonUnavailableError,
    UnknownModelError,
)
from bridge.settings import Settings
from bridge.tensors import Tensor
from bridge.training import run as run_module
from bridge.training.datasets import DatasetStore
from bridge.training.process import Listeners, Piece, train_in_process
from bridge.training.request import parse_request

ROOT = Path(__file__).parent.parent.parent


class FakeTriton:
    """Loads folders of a repository as Triton does in explicit mode: the newest version only.

    `refuses` names models (by substring) that it will not load; `skew` is added to its answers;
    `down` makes every call fail as an outage does; `locked` those that want the admin key; `gpu` is
    where it says that it runs models; `fails` has errors to answer with, by whether to a candidate.
    """

    def __init__(self, repository: Path):
        self.repository = repository
        self.served = {}
        self.refuses: set[tuple[str, int]] = set()
        self.skew = 0.0
        self.gpu = False
        self.down = self.locked = False
        self.fails = {}
        self.calls = []

    async def index(self):
        if self.down:
            raise TritonUnavailableError("Triton is not available")
        self._unlocked()
        return []

    async def model_spec(self, name):
        text = (self.repository / name / "config.pbtxt").read_text()
        assert name in self.served
        return SimpleNamespace(max_batch_size=int(re.search(r"max_batch_size: (\d+)", text)[1]))

    async def load(self, name):
        self._called("load", name)
        self._unlocked()
        numbers = [int(p.name) for p in (self.repository / name).glob("[0-9]*")]
        if not numbers:
            raise ModelLoadError(f"no versions of {name}")
        if any(part in name and max(numbers) == number for part, number in self.refuses):
            raise ModelLoadError(f"cannot load {name}")
        assert (self.repository / name / "config.pbtxt").is_file()
        model = self.repository / name / str(max(numbers)) / "model.onnx"
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.served[name] = (str(max(numbers)), session)

    async def unload(self, name):
        self._called("unload", name)
        if self.served.pop(name, None) is None:
            raise UnknownModelError(name)

    async def on_processors(self, name):
        assert name in self.served
        return not self.gpu

    async def infer(self, name, inputs, *, version="", timeout_s):
        self._called("infer", name)
        assert timeout_s > 0
        if error := self.fails.get(".candidate-" in name):
            raise error
        served, session = self.served[name]
        rows = next(iter(inputs.values())).shape[0]
        assert rows <= (await self.model_spec(name)).max_batch_size
        if version not in ("", served):
            raise UnknownModelError(f"{name} {version}")
        found = session.run(None, {key: tensor.to_array() for key, tensor in inputs.items()})
        names = [output.name for output in session.get_outputs()]
        outputs = {
            key: Tensor.from_array(array + np.float32(self.skew))
            for key, array in zip(names, found, strict=True)
        }
        return SimpleNamespace(model_name=name, model_version=served, outputs=outputs)

    def _unlocked(self):
        if self.locked:
            raise RestrictedError("set TRITON_ADMIN_KEY")

    def _called(self, what, name):
        self.calls.append((what, name.partition(".candidate-")[0], ".candidate-" in name))
        if self.down:
            raise TritonUnavailableError("Triton is not available")


@pytest.fixture(scope="session")
def digits():
    """Handwritten digits: images float32 [1797, 8, 8] with values 0 to 16, and classes."""
    bunch = load_digits()
    return bunch.images.astype(np.float32), bunch.target


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory, digits):
    """`digits` whole, `few` (300 of them)."""
    root = tmp_path_factory.mktemp("datasets")
    images, classes = digits
    store = DatasetStore(root)
    store.add("digits", {"train": {"image": images, "target": classes}})
    store.add("few", {"train": {"image": images[:300], "target": classes[:300]}})
    return root


@pytest.fixture
def settings(tmp_path, dataset_root):
    return Settings(
        dataset_root=dataset_root,
        model_repository=tmp_path / "models",
        checkpoint_root=tmp_path / "checkpoints",
    )


@pytest.fixture(scope="session")
async def trained(tmp_path_factory, dataset_root):
    """One real training in a real process: its outcome, progress and files."""
    folder = tmp_path_factory.mktemp("trained")
    request = parse_request(
        "few", {"architecture": "cnn"}, {"epochs": 2}, Settings(dataset_root=dataset_root)
    )
    progress = []

    async def on_progress(record):
        progress.append(record)

    async def on_checkpoint(file, facts):
        del file, facts

    listeners = Listeners(lambda _: None, on_progress, on_checkpoint)
    outcome = await train_in_process(request, folder, dataset_root, Piece(), listeners)
    return SimpleNamespace(outcome=outcome, progress=progress, folder=folder)


@pytest.fixture
def trainings(monkeypatch, trained):
    """Instead of training anew, each run gets the files of one real training."""
    made = []

    async def train_in_process(request, folder, dataset_root, piece, listeners, *, spare):
        del dataset_root, piece, spare
        made.append(request.model_id)
        listeners.plan(trained.outcome.plan)
        await listeners.progress(trained.progress[-1])
        shutil.copytree(trained.folder, folder, dirs_exist_ok=True)
        return trained.outcome

    monkeypatch.setattr(run_module, "train_in_process", train_in_process)
    return made


@pytest.fixture(scope="session")
def make_fake_triton():
    return FakeTriton


@pytest.fixture
def fake_triton(settings, make_fake_triton):
    return make_fake_triton(settings.model_repository)


@pytest.fixture
def architectures_of_a_user(tmp_path, monkeypatch):
    """A distribution of somebody else's with two architectures, installed for this test."""
    shutil.copytree(Path(__file__).parent / "users_package", tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    # For the training process; what this process was started with must stay.
    inherited = [path for path in sys.path if path and Path(path) != ROOT]
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, inherited)))


class Pool:
    """Training workers as users start them, on a queue of their own; and a client for them."""

    def __init__(self, environment, folder):
        self.environment, self.folder = environment, folder
        self.client = None
        self._workers = {}

    async def start(self, workers=1, **changes):
        """Start a worker pool, of one process by default; returns once it listens."""
        log = self.folder / f"worker-{len(self._workers)}.log"
        with log.open("wb") as output:
            worker = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-m", "taskiq", "worker"),
                *("bridge.broker:training_broker", "bridge.tasks.training"),
                *("--workers", str(workers)),
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environment, **changes},
                start_new_session=True,
            )
        self._workers[worker] = log
        async with asyncio.timeout(60):
            while log.read_text().count("Listening started.") < workers:
                assert worker.returncode is None, log.read_text()
                await asyncio.sleep(0.1)
        return worker

    def log(self, worker):
        return self._workers[worker].read_text()

    def versions(self, model):
        folder = Path(self.environment["MODEL_REPOSITORY"]) / model
        return sorted(int(path.name) for path in folder.glob("[0-9]*"))

    def processes(self, worker):
        """The worker and all that it started."""
        main = psutil.Process(worker.pid)
        return [main, *main.children(recursive=True)]

    def stop_processes(self, worker):
        """SIGSTOP to the worker, but not to what trains for it; returns whom."""
        stopped = []
        for process in self.processes(worker):
            if "bridge.training.child" not in process.cmdline():
                process.suspend()
                stopped.append(process.pid)
        return stopped

    async def close(self):
        for worker in self._workers:
            if worker.returncode is None:
                os.killpg(worker.pid, signal.SIGKILL)
                await worker.wait()


@pytest.fixture
def set_environment(redis_server, triton, dataset_root, tmp_path, monkeypatch):
    """Sets what workers of a queue on a RabbitMQ need, and returns it."""

    def set_environment(rabbitmq, queue):
        variables = {
            "RABBITMQ_HOST": "127.0.0.1",
            "RABBITMQ_PORT": str(rabbitmq.port),
            "RABBITMQ_USERNAME": rabbitmq.username,
            "RABBITMQ_PASSWORD": rabbitmq.password,
            "TASKIQ_ML_TRAINING_QUEUE": queue,
            "TASKIQ_ML_TRAINING_ROUTING_KEY": queue,
            "REDIS_URL": redis_server.url,
            "TRITON_URL": triton.address,
            "TRITON_ADMIN_KEY": triton.admin_key,
            "MODEL_REPOSITORY": str(triton.repository),
            "DATASET_ROOT": str(dataset_root),
            "CHECKPOINT_ROOT": str(tmp_path / "checkpoints"),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return variables

    return set_environment


@pytest.fixture
async def new_pool(set_environment, tmp_path):
    """Makes the test's pool on a RabbitMQ."""
    made = []

    async def make(rabbitmq):
        pool = Pool(set_environment(rabbitmq, f"pool-{uuid.uuid4().hex[:8]}"), tmp_path)
        made.append(pool)
        pool.client = await exits.enter_async_context(BridgeClient(Settings()))
        return pool

    async with AsyncExitStack() as exits:
        yield make
        for pool in made:
            await pool.close()


@pytest.fixture
async def pool(new_pool, rabbitmq):
    return await new_pool(rabbitmq)
