"""Real servers for every test: RabbitMQ, Redis and Triton, started once, on free ports.

Test files cannot import one another (the project root must stay off sys.path), so that what
they share comes as fixtures.
"""

import asyncio
import contextlib
import fcntl
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import hypothesis
import onnx
import psutil
import pytest
from onnx import NodeProto, TensorProto, helper
from redis.asyncio import Redis

from bridge.embedded.leftovers import MARK_VARIABLE
from bridge.embedded.ports import free_ports
from bridge.embedded.probes import amqp_answers
from bridge.embedded.rabbitmq import RabbitMQServer, find_rabbitmq_server
from bridge.embedded.redis import RedisServer
from bridge.embedded.state import StateFolder
from bridge.embedded.triton import TritonServer
from bridge.errors import RuntimeStartError

# Of whoever runs several processes of tests; a command that a test calls would fold its tables.
os.environ.pop("COLUMNS", None)
# A GPU computes otherwise, and Triton and trainings take one by themselves where there is one.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# No time limit for one example: these machines are noisy, and a time proves nothing.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
NUMERIC = [name for name in ONNX_TYPES if name not in {"BYTES", "BF16"}]

Spec = tuple[str, str, Sequence[int]]
"""Name, KServe datatype, shape without the batch dimension; -1 is any size."""


_THERE = pytest.StashKey[set[str]]()


def save_onnx_model(
    repository: Path,
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    *,
    initializers: Sequence[TensorProto] = (),
    max_batch_size: int = 8,
    version: int = 1,
    extra: str = "dynamic_batching { max_queue_delay_microseconds: 1000 }",
) -> Path:
    """Write `<repository>/<name>/<version>/model.onnx` and its config.pbtxt; returns the folder."""
    folder = repository / name
    (folder / str(version)).mkdir(parents=True)
    batch: list[Any] = [None] if max_batch_size else []

    def info(spec: Spec) -> Any:
        sizes = [size if size >= 0 else None for size in spec[2]]
        return helper.make_tensor_value_info(spec[0], ONNX_TYPES[spec[1]], batch + sizes)

    graph = helper.make_graph(
        list(nodes), name, [info(i) for i in inputs], [info(o) for o in outputs], initializers
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )  # versions that any onnxruntime of the last years reads
    onnx.save(model, str(folder / str(version) / "model.onnx"))

    def described(spec: Spec) -> str:
        kind = "TYPE_STRING" if spec[1] == "BYTES" else f"TYPE_{spec[1]}"
        return f'{{ name: "{spec[0]}" data_type: {kind} dims: {list(spec[2])} }}'

    (folder / "config.pbtxt").write_text(
        'backend: "onnxruntime"\n'
        f"max_batch_size: {max_batch_size}\n"
        f"input [{', '.join(map(described, inputs))}]\n"
        f"output [{', '.join(map(described, outputs))}]\n"
        "instance_group [{ count: 1 kind: KIND_CPU }]\n"
        f"{extra if max_batch_size else ''}\n"
    )
    return folder


def save_multiply_model(repository: Path, name: str, factor: float, *, version: int = 1) -> Path:
    """`y = factor * x`, FP32, rows of 4."""
    constant = helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])
    return save_onnx_model(
        repository,
        name,
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", "FP32", [4])],
        [("y", "FP32", [4])],
        initializers=[constant],
        version=version,
    )


def _seed(repository: Path) -> None:
    save_multiply_model(repository, "double", 2.0)
    save_onnx_model(
        repository,
        "add_int",
        [helper.make_node("Add", ["a", "b"], ["sum"])],
        [("a", "INT32", [2]), ("b", "INT32", [2])],
        [("sum", "INT32", [2])],
    )
    save_onnx_model(
        repository,
        "echo_text",
        [helper.make_node("Identity", ["text"], ["echo"])],
        [("text", "BYTES", [1])],
        [("echo", "BYTES", [1])],
    )
    save_onnx_model(
        repository,
        "fixed",
        [helper.make_node("Neg", ["x"], ["y"])],
        [("x", "FP32", [2, 2])],
        [("y", "FP32", [2, 2])],
        max_batch_size=0,
    )
    wide = [*NUMERIC, "BF16"]
    save_onnx_model(
        repository,
        "wide",
        [helper.make_node("Identity", [f"in_{t}"], [f"out_{t}"]) for t in wide],
        [(f"in_{t}", t, [-1]) for t in wide],
        [(f"out_{t}", t, [-1]) for t in wide],
    )
    # An index beyond the table fails only when the model runs: a caller who is guilty.
    table = helper.make_tensor("table", TensorProto.FLOAT, [3], [10.0, 11.0, 12.0])
    save_onnx_model(
        repository,
        "lookup",
        [helper.make_node("Gather", ["table", "index"], ["value"])],
        [("index", "INT64", [1])],
        [("value", "FP32", [1])],
        initializers=[table],
        extra="dynamic_batching { max_queue_delay_microseconds: 200000 }",
    )


class ContainerRabbitMQ:
    """RabbitMQ in a container, where the machine has Docker but no rabbitmq-server."""

    username = password = "guest"

    def __init__(self) -> None:
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415  # rarely used

        self.port = free_ports(1)[0]
        self._container = DockerContainer("rabbitmq:3.13").with_bind_ports(5672, self.port)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self.address}/"

    async def start(self) -> None:
        if self._container.get_wrapped_container() is None:
            self._container.start()
        else:
            self._container.get_wrapped_container().start()
        async with asyncio.timeout(120):
            while not await amqp_answers("127.0.0.1", self.port):
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        self._container.get_wrapped_container().stop()

    async def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def remove(self) -> None:
        self._container.stop()


def _docker_answers() -> bool:
    try:
        import docker  # noqa: PLC0415  # comes with testcontainers

        return bool(docker.from_env(timeout=5).ping())
    except Exception:  # noqa: BLE001  # whatever the reason, there is no engine
        return False


def _rabbitmq_installed() -> bool:
    try:
        find_rabbitmq_server()
    except RuntimeStartError:
        return False
    return True


def _install(package: str, there: Callable[[], Any]) -> None:
    """By apt-get, where it may; the other process of these tests may want it at the same time."""
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with (Path(tempfile.gettempdir()) / "taskiq-triton-bridge-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not there():
            for command in (["update", "-qq"], ["install", "-y", "-qq", package]):
                subprocess.run(["apt-get", *command], check=True, env=environment)


def _find_program(name: str, package: str) -> str:
    if shutil.which(name) is None:
        _install(package, lambda: shutil.which(name))
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"these tests need {name}: apt-get install {package}, and PATH to name it")
    return found


@pytest.fixture(scope="session")
def find_program() -> Callable[[str, str], str]:
    """Where a program is, from its name and Debian's package, installed if need be."""
    return _find_program


@pytest.fixture(scope="session")
def find_traces() -> Callable[[str | Path], list[str]]:
    """Processes, shared memory and files that are left of a state folder, by its path or name."""

    def find(state: str | Path) -> list[str]:
        folder = Path("/tmp") / state
        found = [str(path) for path in folder.parent.glob(f"{folder.name}*")]
        found += [str(path) for path in Path("/dev/shm").glob(f"{folder.name}*")]
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                command = " ".join(process.cmdline())
                marked = process.environ().get(MARK_VARIABLE, "").startswith(folder.name)
                if marked or folder.name in command:
                    found.append(f"{process.pid} {command}")
        return found

    return find


@pytest.fixture(scope="session")
def save_model() -> Callable[..., Path]:
    """`save_onnx_model`."""
    return save_onnx_model


@pytest.fixture(scope="session")
def save_multiplier() -> Callable[..., Path]:
    """`save_multiply_model`."""
    return save_multiply_model


def _objects_of(kind: type) -> list[object]:
    return [it for it in gc.get_objects() if issubclass(type(it), kind)]


@contextlib.contextmanager
def _leaving_no(kind: type) -> Iterator[None]:
    gc.collect()
    before = _objects_of(kind)  # those of other tests
    gc.disable()
    try:
        yield
        known = set(map(id, before))
        left = [it for it in _objects_of(kind) if id(it) not in known]
        assert not left, gc.get_referrers(left[0])
    finally:
        gc.enable()


@pytest.fixture
def leaving_no() -> Callable[[type], contextlib.AbstractContextManager[None]]:
    """A block after which no object of a class is left, though no collector has come."""
    return _leaving_no


@pytest.fixture(scope="session")
def state() -> Iterator[StateFolder]:
    folder = StateFolder()
    folder.open()
    yield folder
    folder.close()


@pytest.fixture(scope="session")
async def rabbitmq(state: StateFolder) -> AsyncIterator[RabbitMQServer | ContainerRabbitMQ]:
    """Installed, else in a container, else installed now by apt-get."""
    if not _rabbitmq_installed():
        if _docker_answers():
            container = ContainerRabbitMQ()
            await container.start()
            yield container
            container.remove()
            return
        _install("rabbitmq-server", _rabbitmq_installed)
        if not _rabbitmq_installed():
            pytest.fail(
                "these tests need RabbitMQ: install rabbitmq-server, or start a Docker engine, "
                "or run them as root where apt-get can install it"
            )
    async with RabbitMQServer(state) as server:
        yield server


@pytest.fixture(scope="session")
async def redis_server(state: StateFolder) -> AsyncIterator[RedisServer]:
    async with RedisServer(state) as server:
        yield server


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url) as redis:
        yield redis


class S3Server:
    """moto's S3 server as a child process, with one bucket."""

    bucket = "payloads"

    def __init__(self, log: Path) -> None:
        self.endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
        self._log = log

    async def __aenter__(self) -> Self:
        port = self.endpoint.rpartition(":")[2]
        command = ["-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *command, stdout=log, stderr=log
            )
        async with httpx.AsyncClient() as http, asyncio.timeout(60):
            while True:
                assert self._process.returncode is None, self._log.read_text()
                try:
                    (await http.put(f"{self.endpoint}/{self.bucket}")).raise_for_status()
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
                else:
                    return self

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        await self._process.wait()

    @property
    def variables(self) -> dict[str, str]:
        """What a client needs to use it as the payload store."""
        return {
            "BRIDGE_PAYLOAD_URL": f"s3://{self.bucket}",
            "BRIDGE_PAYLOAD_ENDPOINT": self.endpoint,
            "BRIDGE_PAYLOAD_REGION": "us-east-1",
            "BRIDGE_PAYLOAD_ACCESS_KEY": "any",
            "BRIDGE_PAYLOAD_SECRET_KEY": "not-a-secret",
        }


@pytest.fixture(scope="session")
async def s3_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[S3Server]:
    async with S3Server(tmp_path_factory.mktemp("s3") / "s3.log") as server:
        yield server


@pytest.fixture(scope="session")
def new_store(
    s3_server: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, str]]:
    """Settings of a payload store of a kind (file, s3, redis), on real servers."""

    def make(kind: str) -> dict[str, str]:
        if kind == "file":
            return {"BRIDGE_PAYLOAD_URL": (tmp_path_factory.mktemp("store") / "a b").as_uri()}
        if kind == "s3":
            url = f"s3://{s3_server.bucket}/some/{uuid.uuid4().hex}"
            return s3_server.variables | {"BRIDGE_PAYLOAD_URL": url}
        return {"BRIDGE_PAYLOAD_URL": redis_server.url}

    return make


@pytest.fixture(scope="session")
def model_repository(state: StateFolder) -> Path:
    """Served by `triton`; a test may add models of its own names."""
    repository = state.room("model_repository")
    _seed(repository)
    return repository


@pytest.fixture(autouse=True)
def no_models_of_an_earlier_try(request: pytest.FixtureRequest) -> None:
    """A test that failed and is run again finds the repository as it did at first."""
    if "model_repository" not in request.fixturenames:
        return
    repository = request.getfixturevalue("model_repository")
    there = {folder.name for folder in repository.iterdir()}
    for name in there - request.node.stash.setdefault(_THERE, there):
        shutil.rmtree(repository / name, ignore_errors=True)


@pytest.fixture(scope="session")
async def triton(state: StateFolder, model_repository: Path) -> AsyncIterator[TritonServer]:
    async with TritonServer(state, model_repository) as server:
        yield server
