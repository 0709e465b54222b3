"""Servers with something wrong, and the doctor's findings on them."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator

import pytest
from onnx import helper
from typer.testing import CliRunner

from bridge.cli.app import app
from bridge.doctor import examine
from bridge.embedded.rabbitmq import RabbitMQServer, find_rabbitmq_server
from bridge.embedded.redis import RedisServer
from bridge.embedded.triton import TritonServer
from bridge.queues import Management
from bridge.settings import Settings

NARROW_DESCRIPTORS = 1024


class ManagedRabbitMQ(RabbitMQServer):
    """Has the management API, a minute for each delivery, and few descriptors."""

    def __init__(self, state):
        super().__init__(state, management=True, consumer_timeout_ms=60_000)

    def _command(self):
        [script] = super()._command()
        return ["/bin/sh", "-c", f'ulimit -n {NARROW_DESCRIPTORS} && exec "$0"', script]

    def control(self, *arguments):
        """`rabbitmqctl`, on this node."""
        program = find_rabbitmq_server().with_name("rabbitmqctl")
        command = [program, *arguments]
        ran = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


class OpenTriton(TritonServer):
    """Lets anybody load models."""

    def _command(self):
        return [word for word in super()._command() if "-restricted-" not in word]


@pytest.fixture(scope="session")
def settings_of():
    """Settings of some variables, and of no others; queues of a name of their own."""

    def make(*parts, **variables):
        name = f"doctor-{uuid.uuid4().hex[:8]}"
        own = {
            "TASKIQ_ML_QUEUE": name,
            "TASKIQ_ML_TRAINING_QUEUE": f"{name}-training",
            "TASKIQ_ML_EXCHANGE": f"{name}-exchange",
        }
        with pytest.MonkeyPatch.context() as patch:
            for field in Settings.model_fields:
                patch.delenv(field.upper(), raising=False)
            for part in (own, *parts, variables):
                for variable, value in part.items():
                    patch.setenv(variable, str(value))
            return Settings()

    return make


@pytest.fixture(scope="session")
def found():
    """The findings of some checks, by code."""

    async def look(settings, *only):
        by_code = {}
        for each in await examine(settings, only):
            by_code.setdefault(each.code, []).append(each)
        return by_code

    return look


def variables_of(server):
    return {
        "RABBITMQ_HOST": "127.0.0.1",
        "RABBITMQ_PORT": server.port,
        "RABBITMQ_USERNAME": server.username,
        "RABBITMQ_PASSWORD": server.password,
    }


@pytest.fixture(scope="session")
def plain(rabbitmq):
    """Variables of a RabbitMQ without the management API."""
    return variables_of(rabbitmq)


@pytest.fixture(scope="session")
async def managed_rabbitmq(state, rabbitmq) -> AsyncIterator[ManagedRabbitMQ]:
    async with ManagedRabbitMQ(state) as server:
        yield server


@pytest.fixture(scope="session")
async def managed(managed_rabbitmq, settings_of):
    """Variables of a RabbitMQ whose management API knows its node, some seconds after its start."""
    variables = variables_of(managed_rabbitmq) | {
        "RABBITMQ_MANAGEMENT_URL": managed_rabbitmq.management_url
    }
    api = Management(settings_of(variables))
    async with asyncio.timeout(90):
        while not all(node.config_files for node in await api.nodes()):
            await asyncio.sleep(0.2)
    return variables


@pytest.fixture(scope="module")
async def own_redis(state) -> AsyncIterator[RedisServer]:
    """One whose configuration a test may change."""
    async with RedisServer(state) as server:
        yield server


@pytest.fixture(scope="session")
async def open_triton(state, save_model) -> AsyncIterator[OpenTriton]:
    """Another repository, of models that each have something wrong."""
    repository = state.room("wrong_models")

    def save(name, size, **options):
        save_model(
            repository,
            name,
            [helper.make_node("Neg", ["x"], ["y"])],
            [("x", "FP32", size)],
            [("y", "FP32", size)],
            **options,
        )

    save("lonely", [4], extra="")
    save("unbatched", [-1, 4], max_batch_size=0)
    save("one_row", [1, 4], max_batch_size=0)
    save("backless", [4])
    save("halved", [4])
    save("frozen", [1, 4], max_batch_size=0)
    config = repository / "backless" / "config.pbtxt"
    config.write_text(config.read_text().replace('"onnxruntime"', '"tensorrt"'))
    model = repository / "halved" / "1" / "model.onnx"
    model.write_bytes(model.read_bytes()[:40])
    config = repository / "frozen" / "config.pbtxt"  # as whoever exports with a batch of one
    text = config.read_text().replace("max_batch_size: 0", "max_batch_size: 8")
    config.write_text(text.replace("[1, 4]", "[4]"))
    async with OpenTriton(state, repository) as server:
        yield server


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """The port of something that takes connections and never says a word."""
    held = []

    async def hold(_, writer):
        held.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in held:
        writer.close()


@pytest.fixture(scope="session")
def mlbridge():
    """The command, as a process with these variables."""

    def run(*arguments, folder, **variables):
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
        return subprocess.run(
            [sys.executable, "-P", "-m", "bridge", *arguments],
            cwd=folder,
            env=kept | {name: str(value) for name, value in variables.items()},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def command():
    """The command in this process, on a thread of its own as it runs a loop of its own."""

    async def run(*arguments, **variables):
        unset = dict.fromkeys(field.upper() for field in Settings.model_fields)
        given = {name: str(value) for name, value in variables.items()}
        environment = {**unset, "COLUMNS": "200", **given}
        return await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=environment)

    return run
