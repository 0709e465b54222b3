"""Redis, RabbitMQ and Triton: start, restart, crash, end, and what is missing."""

import asyncio
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import numpy as np
import psutil
import pytest
import redis.asyncio
import tritonclient.grpc.aio as grpc
from tritonclient.utils import InferenceServerException

from bridge.embedded import rabbitmq as rabbitmq_module
from bridge.embedded import redis as redis_module
from bridge.embedded import triton as triton_module
from bridge.embedded.probes import amqp_answers, grpc_answers, http_ok, redis_answers
from bridge.embedded.rabbitmq import RabbitMQServer
from bridge.embedded.redis import RedisServer
from bridge.embedded.state import StateFolder
from bridge.embedded.triton import TritonServer
from bridge.errors import RuntimeStartError

ADMIN = "triton-grpc-protocol-triton-admin-key"


def listening_addresses(pid: int) -> set[str]:
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in family
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def shared_memory(state: StateFolder) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{state.name}*"))


async def test_redis_keeps_its_data_over_restart_and_crash(
    own_state: StateFolder, port_is_free: Callable[[int], bool]
) -> None:
    async with RedisServer(own_state) as server:
        url, first = server.url, server.pid
        async with redis.asyncio.from_url(url) as client:
            await client.set("kept", "1")
            assert (await client.config_get("maxmemory-policy")) == {
                "maxmemory-policy": "noeviction"
            }
        await server.restart()
        assert server.url == url
        assert server.pid != first
        await server.kill()
        assert port_is_free(server.port)
        await server.start()
        async with redis.asyncio.from_url(url) as client:
            assert await client.get("kept") == b"1"
        assert not await redis_answers(f"redis://{server.address}")
        assert not await redis_answers(f"redis://:wrong@{server.address}")
        assert server.pid is not None
        assert listening_addresses(server.pid) == {"127.0.0.1"}
        command = psutil.Process(server.pid).cmdline()
        assert url.split(":")[2].split("@")[0] not in " ".join(command)
    assert port_is_free(server.port)


async def test_rabbitmq_keeps_messages_and_has_what_was_asked_for(
    own_state: StateFolder, port_is_free: Callable[[int], bool]
) -> None:
    async with RabbitMQServer(own_state, management=True, consumer_timeout_ms=90_000) as server:
        async with await aio_pika.connect(server.url) as connection:
            channel = await connection.channel()
            await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "quorum"})
            await channel.default_exchange.publish(aio_pika.Message(b"kept"), "q")
        assert server.pid is not None
        assert listening_addresses(server.pid) == {"127.0.0.1"}
        async with httpx.AsyncClient(auth=(server.username, server.password)) as web:
            overview = (await web.get(f"{server.management_url}/api/overview")).json()
        assert overview["node"].startswith(own_state.name)
        assert "consumer_timeout = 90000" in (server.room / "rabbitmq.conf").read_text()

        # RabbitMQ 3.10 loses a quorum queue if it is killed within moments of the declaration.
        await asyncio.sleep(1)
        await server.kill()
        assert port_is_free(server.port)
        await server.start()
        async with await aio_pika.connect(server.url) as connection:
            queue = await (await connection.channel()).get_queue("q", ensure=False)
            message = await queue.get()
            assert message is not None
            assert message.body == b"kept"
            await message.ack()
    assert port_is_free(server.port)


async def test_triton_serves_again_after_a_crash(
    own_state: StateFolder,
    save_multiplier: Callable[..., Path],
    port_is_free: Callable[[int], bool],
) -> None:
    repository = own_state.path / "repository"
    save_multiplier(repository, "triple", 3.0)
    async with TritonServer(own_state, repository) as server:
        assert server.pid is not None
        assert listening_addresses(server.pid) == {"127.0.0.1"}
        assert shared_memory(own_state)
        save_multiplier(repository, "later", 7.0)  # published while it ran
        await server.kill()
        assert not shared_memory(own_state)
        await server.start()
        async with grpc.InferenceServerClient(server.address) as client:
            x = grpc.InferInput("x", [1, 4], "FP32")
            x.set_data_from_numpy(np.ones((1, 4), np.float32))
            assert (await client.infer("triple", [x])).as_numpy("y")[0, 0] == 3.0
            assert (await client.infer("later", [x])).as_numpy("y")[0, 0] == 7.0
        assert server.admin_key not in server.process.log_path.read_text()
    assert all(map(port_is_free, (server.grpc_port, server.http_port, server.metrics_port)))


async def test_a_broken_model_does_not_stop_triton(
    own_state: StateFolder, save_multiplier: Callable[..., Path]
) -> None:
    repository = own_state.path / "repository"
    good = save_multiplier(repository, "good", 1.0)
    (repository / "broken" / "1").mkdir(parents=True)
    config = (good / "config.pbtxt").read_text()
    (repository / "broken" / "config.pbtxt").write_text(config)
    save_multiplier(repository, "good.candidate-0123456789ab", 1.0)  # its publisher died
    async with (
        TritonServer(own_state, repository) as server,
        grpc.InferenceServerClient(server.address) as client,
    ):
        assert await client.is_model_ready("good")
        assert not await client.is_model_ready("broken")
        assert not await client.is_model_ready("good.candidate-0123456789ab")


async def test_paths_that_a_shell_would_take_apart(
    tmp_path: Path, save_multiplier: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "it's my $HOME & models"
    save_multiplier(repository, "double", 2.0)
    monkeypatch.setattr("tempfile.tempdir", str(repository))
    async with (
        StateFolder() as state,
        RedisServer(state),
        TritonServer(state, repository) as server,
        grpc.InferenceServerClient(server.address) as client,
    ):
        assert await client.is_model_ready("double")


async def test_loading_asks_for_the_key(triton: TritonServer) -> None:
    async with grpc.InferenceServerClient(triton.address) as client:
        for headers in (None, {ADMIN: "guessed"}):
            with pytest.raises(InferenceServerException, match="restricted"):
                await client.load_model("double", headers=headers)
        await client.load_model("double", headers={ADMIN: triton.admin_key})
    async with httpx.AsyncClient(base_url=triton.http_url) as web:
        path = "/v2/repository/models/double/load"
        assert (await web.post(path)).status_code == 403
        key = {"triton-admin-key": triton.admin_key}
        assert (await web.post(path, headers=key)).status_code == 200
        assert (await web.get(triton.metrics_url)).status_code == 200


def _make_triton(state: StateFolder, port: int) -> TritonServer:
    return TritonServer(state, state.path, ports=(port, port, port))


SERVERS: list[Any] = [
    pytest.param(lambda state, port: RedisServer(state, port=port), id="redis"),
    pytest.param(lambda state, port: RabbitMQServer(state, port=port), id="rabbitmq"),
    pytest.param(_make_triton, id="triton"),
]


@pytest.mark.parametrize("make", SERVERS)
async def test_a_taken_port_leaves_nothing(
    make: Callable[..., Any], own_state: StateFolder
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = make(own_state, taken.getsockname()[1])
        with pytest.raises(RuntimeStartError, match=r"(?s)port.*taken.*last lines"):
            await server.start()
        assert not server.process.running


@pytest.mark.parametrize("make", SERVERS)
async def test_a_start_that_is_cancelled_leaves_nothing(
    make: Callable[..., Any], own_state: StateFolder
) -> None:
    starting = asyncio.create_task(make(own_state, None).start())
    await asyncio.sleep(0.3)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)


async def test_what_to_install(own_state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.setattr("shutil.which", lambda *_: None)
    monkeypatch.setattr(rabbitmq_module, "_candidates", lambda: iter(()))
    extra = r"pip install 'taskiq-triton-bridge\[embedded\]'"
    with pytest.raises(RuntimeStartError, match=extra):
        await RedisServer(own_state).start()
    with pytest.raises(RuntimeStartError, match=extra):
        await TritonServer(own_state, own_state.path).start()
    with pytest.raises(RuntimeStartError, match="apt-get install rabbitmq-server"):
        await RabbitMQServer(own_state).start()


async def test_redis_of_the_machine_where_the_wheel_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    monkeypatch.setattr("shutil.which", lambda name: f"/somewhere/{name}")
    assert redis_module.find_redis_server() == Path("/somewhere/redis-server")


async def test_a_python_without_shared_library(
    own_state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = own_state.path / "stub"
    stub.write_text("#!/bin/sh\necho libpython is missing >&2\nexit 127\n")
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(triton_module.shutil, "copy2", lambda _, to: _install(stub, to))
    with pytest.raises(RuntimeStartError, match=r"libpython is missing.*apt-get install libpython"):
        await TritonServer(own_state, own_state.path).start()


def _install(stub: Path, folder: Path) -> None:
    stub.rename(folder / "triton_python_backend_stub")


async def test_the_state_folder_is_private(own_state: StateFolder) -> None:
    assert stat.S_IMODE(own_state.path.stat().st_mode) == 0o700


async def test_probes_tell_protocols_apart() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert not await amqp_answers("127.0.0.1", port)
    assert not await redis_answers(f"redis://127.0.0.1:{port}")
    assert not await http_ok("127.0.0.1", port, "/")
    assert not await grpc_answers("127.0.0.1", port)
    server.close()
    await server.wait_closed()
