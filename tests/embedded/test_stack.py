"""The stack without its workers: what it starts, finds, watches over, and leaves behind."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bridge.embedded.ports import free_ports
from bridge.embedded.probes import amqp_answers, grpc_answers, redis_answers
from bridge.embedded.redis import RedisServer
from bridge.embedded.stack import Part, PartState, QueueChoice, Stack
from bridge.embedded.triton import TritonServer
from bridge.embedded.variables import as_variables
from bridge.errors import RuntimeStartError
from bridge.settings import Settings

Traces = Callable[[str], list[str]]


def make_stack(settings: Settings | None = None, **options: Any) -> Stack:
    chosen = {"private": True, "queue": QueueChoice.REDIS_STREAMS, **options}
    return Stack(settings or Settings(), workers=0, training_workers=0, **chosen)


def part_of(stack: Stack, name: str) -> Part:
    return next(part for part in stack.parts if part.name == name)


@pytest.fixture
def settings_of_nothing(tmp_path: Path) -> Settings:
    """Where nothing runs."""
    amqp, redis, triton = free_ports(3)
    return Settings(
        rabbitmq_host="127.0.0.1",
        rabbitmq_port=amqp,
        redis_url=SecretStr(f"redis://127.0.0.1:{redis}/0"),
        triton_url=f"127.0.0.1:{triton}",
        model_repository=tmp_path / "models",
        dataset_root=tmp_path / "datasets",
        checkpoint_root=tmp_path / "checkpoints",
    )


async def test_a_private_stack_with_rabbitmq(find_traces: Traces) -> None:
    seen: list[tuple[str, PartState]] = []
    stack = make_stack(
        queue=QueueChoice.AUTO, on_change=lambda part: seen.append((part.name, part.state))
    )
    async with stack:
        settings = stack.settings
        assert settings.bridge_queue == "rabbitmq"
        assert await amqp_answers(settings.rabbitmq_host, settings.rabbitmq_port)
        assert await redis_answers(settings.redis_url.get_secret_value())
        assert {part.name for part in stack.parts} == {"rabbitmq", "redis", "triton"}
        assert all(part.server and part.pid and part.log for part in stack.parts)
        for folder in (settings.model_repository, settings.dataset_root, settings.checkpoint_root):
            assert folder.parent == stack.folder
        secrets = [
            settings.redis_url.get_secret_value().split(":")[2].split("@")[0],
            settings.rabbitmq_password.get_secret_value(),
        ]
        assert not any(secret in part.address for secret in secrets for part in stack.parts)
        environment = stack.environment
        assert environment["REDIS_URL"] == settings.redis_url.get_secret_value()
        assert environment["RABBITMQ_PORT"] == str(settings.rabbitmq_port)
        assert environment["TRITON_URL"] == settings.triton_url
        assert environment["RABBITMQ_TLS"] == "false"
        assert "TRITON_ADMIN_KEY" not in environment
        assert settings.triton_admin_key is not None
        assert "TASKIQ_ML_QUEUE" not in stack.client_environment
        assert "RABBITMQ_PASSWORD" in stack.client_environment
        triton = part_of(stack, "triton").server
        assert triton is not None
    for name in ("rabbitmq", "redis", "triton"):
        states = [state for part, state in seen if part == name]
        assert states == [PartState.STARTING, PartState.RUNNING, PartState.STOPPED]
    assert find_traces(stack.folder.name) == []


async def test_what_runs_already_is_used_and_left_running(
    rabbitmq: Any, redis_server: RedisServer, triton: TritonServer, tmp_path: Path
) -> None:
    settings = Settings(
        rabbitmq_host="127.0.0.1",
        rabbitmq_port=rabbitmq.port,
        redis_url=SecretStr(redis_server.url),
        triton_url=triton.address,
        model_repository=tmp_path / "models",
        dataset_root=tmp_path / "datasets",
        checkpoint_root=tmp_path / "checkpoints",
    )
    async with make_stack(settings, private=False, queue=QueueChoice.AUTO) as stack:
        assert {part.state for part in stack.parts} == {PartState.FOUND}
        assert len(stack.parts) == 3
        assert stack.settings.model_repository.is_dir()
        assert "RABBITMQ_HOST" not in stack.client_environment
    assert await amqp_answers("127.0.0.1", rabbitmq.port)
    assert await redis_answers(redis_server.url)
    assert await grpc_answers("127.0.0.1", triton.grpc_port)


async def test_only_what_is_missing_is_started(
    settings_of_nothing: Settings, redis_server: RedisServer, find_traces: Traces
) -> None:
    settings = settings_of_nothing.model_copy(
        update={"redis_url": SecretStr(redis_server.url), "bridge_queue": "redis-streams"}
    )
    async with make_stack(settings, private=False, queue=QueueChoice.AUTO) as stack:
        assert part_of(stack, "redis").state is PartState.FOUND
        assert part_of(stack, "triton").server
        assert len(stack.parts) == 2
        assert stack.settings.model_repository == settings.model_repository
    assert settings.model_repository.is_dir()
    assert find_traces(stack.folder.name) == []


async def test_a_part_that_dies_is_started_again(find_traces: Traces) -> None:
    stop, restarted = asyncio.Event(), asyncio.Event()
    seen: list[PartState] = []

    def on_change(part: Part) -> None:
        if part.name == "redis" and watching:
            seen.append(part.state)
            if part.state is PartState.RUNNING:
                restarted.set()

    watching = False
    async with make_stack(on_change=on_change) as stack:
        watching = True
        redis = part_of(stack, "redis")
        url = stack.settings.redis_url.get_secret_value()
        watch = asyncio.create_task(stack.watch(stop))
        for _ in range(3):
            restarted.clear()
            assert redis.pid is not None
            os.kill(redis.pid, signal.SIGKILL)
            await asyncio.wait_for(restarted.wait(), 20)
            assert await redis_answers(url)
        assert seen == [PartState.RESTARTING, PartState.RUNNING] * 3
        assert redis.pid is not None
        os.kill(redis.pid, signal.SIGKILL)
        with pytest.raises(RuntimeStartError, match="redis ended 4 times within 60 s"):
            await asyncio.wait_for(watch, 20)
        assert redis.state is PartState.FAILED
    assert find_traces(stack.folder.name) == []


async def test_watching_ends_when_it_is_told() -> None:
    stop = asyncio.Event()
    async with make_stack() as stack:
        watch = asyncio.create_task(stack.watch(stop))
        await asyncio.sleep(0.05)
        stop.set()
        await asyncio.wait_for(watch, 5)


async def test_a_start_that_fails_half_way_leaves_nothing(
    find_traces: Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(_: TritonServer) -> None:
        await asyncio.sleep(0.3)  # Redis is up by then
        raise RuntimeStartError("no")

    monkeypatch.setattr(TritonServer, "start", fails)
    stack = make_stack()
    with pytest.raises(RuntimeStartError, match="no"):
        await stack.__aenter__()
    assert part_of(stack, "triton").state is PartState.FAILED
    assert find_traces(stack.folder.name) == []


@pytest.mark.parametrize("after_s", [0.0, 0.2, 1.0])
async def test_a_start_that_is_cancelled_leaves_nothing(
    after_s: float, find_traces: Traces
) -> None:
    stack = make_stack(queue=QueueChoice.RABBITMQ)
    starting = asyncio.create_task(stack.__aenter__())
    await asyncio.sleep(after_s)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert find_traces(stack.folder.name) == []


async def test_without_rabbitmq_redis_streams_is_the_queue(
    settings_of_nothing: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise RuntimeStartError("not installed")

    monkeypatch.setattr("bridge.embedded.stack.find_rabbitmq_server", missing)
    monkeypatch.setattr("bridge.embedded.rabbitmq.find_rabbitmq_server", missing)
    async with make_stack(settings_of_nothing, private=False, queue=QueueChoice.AUTO) as stack:
        assert stack.settings.bridge_queue == "redis-streams"
        assert stack.environment["BRIDGE_QUEUE"] == "redis-streams"
    stack = make_stack(settings_of_nothing, private=False, queue=QueueChoice.RABBITMQ)
    with pytest.raises(RuntimeStartError, match="not installed"):
        await stack.__aenter__()


def test_settings_survive_the_way_to_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through variables, whatever their kind."""
    monkeypatch.setenv("BRIDGE_BATCH_DELAY_US", '{"digits": 500}')
    monkeypatch.setenv("BRIDGE_TRACES", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv("TASKIQ_DASHBOARD_URL", "http://dashboard:8000/")
    given = Settings()
    for name, value in as_variables(given).items():
        monkeypatch.setenv(name, value)
    assert Settings() == given


def test_what_is_relative_here_is_the_same_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker works in a folder of its own."""
    monkeypatch.setenv("DATASET_ROOT", "data")
    monkeypatch.setenv("BRIDGE_WORK_ROOT", "work")
    environment = Stack(Settings()).environment
    assert environment["DATASET_ROOT"] == str(Path.cwd() / "data")
    assert environment["BRIDGE_WORK_ROOT"] == str(Path.cwd() / "work")


def test_another_terminal_is_told_of_folders(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may be in another folder, where what is relative is another."""
    monkeypatch.chdir(tmp_path)
    told = Stack(Settings()).client_environment
    assert told["DATASET_ROOT"] == str(tmp_path / "datasets")
    assert told["MODEL_REPOSITORY"] == str(tmp_path / "model_repository")
