"""Owners that are killed: nothing of theirs stays."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bridge.embedded.process import Process, clean_environment
from bridge.embedded.state import StateFolder

OWNER = """
import asyncio, sys
from pathlib import Path
from bridge.embedded.rabbitmq import RabbitMQServer
from bridge.embedded.redis import RedisServer
from bridge.embedded.state import StateFolder
from bridge.embedded.triton import TritonServer

async def main():
    async with StateFolder() as state:
        print(state.name, flush=True)
        triton = TritonServer(state, Path(sys.argv[1]))
        servers = [RedisServer(state), RabbitMQServer(state), triton]
        await asyncio.gather(*(server.start() for server in servers))
        print("up", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""
BOUND_S = 15


def scratch_folders() -> set[Path]:
    return set(Path("/tmp").glob("python_env_*"))


def tritons_since(began: float) -> int:
    processes = psutil.process_iter(["name", "create_time"])
    found = [p.info for p in processes if p.info["name"] == "tritonserver"]
    return sum(info["create_time"] >= began - 1 for info in found)


async def start_owner(repository: Path) -> tuple[asyncio.subprocess.Process, str]:
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", OWNER, str(repository)), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    return owner, (await owner.stdout.readline()).decode().strip()


async def gone(find_traces: Callable[[str], list[str]], name: str) -> None:
    deadline = time.monotonic() + BOUND_S
    while found := find_traces(name):
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)


async def test_an_owner_killed_while_all_runs(
    tmp_path: Path, save_multiplier: Callable[..., Path], find_traces: Callable[[str], list[str]]
) -> None:
    save_multiplier(tmp_path, "model", 1.0)
    scratch, began = scratch_folders(), time.time()
    owner, name = await start_owner(tmp_path)
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"up\n"
    assert len(find_traces(name)) > 5
    owner.kill()
    await owner.communicate()
    await gone(find_traces, name)
    # Others on this machine may have started a Triton meanwhile.
    assert len(scratch_folders() - scratch) <= tritons_since(began)


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.4, 1.5])
async def test_an_owner_killed_while_it_starts(
    after_s: float, tmp_path: Path, find_traces: Callable[[str], list[str]]
) -> None:
    owner, name = await start_owner(tmp_path)
    await asyncio.sleep(after_s)
    owner.kill()
    await owner.communicate()
    await gone(find_traces, name)


async def test_a_keeper_that_was_killed_is_not_missed(
    find_traces: Callable[[str], list[str]],
) -> None:
    async with StateFolder() as state:
        keeper = next(
            process
            for process in psutil.Process().children()
            if str(state.path) in process.cmdline()
        )
        keeper.send_signal(signal.SIGTERM)  # which it ignores: its owner still lives
        await asyncio.sleep(0.2)
        assert keeper.is_running()
        keeper.kill()
        process = Process(state, state.room("sleeper"), "sleeper")
        await process.start(["/bin/sleep", "600"], clean_environment())
        assert process.pid is not None
    assert find_traces(state.name) == []
    await process.wait()
    assert process.returncode == -9


async def test_a_reused_session_id_is_left_alone(own_state: StateFolder) -> None:
    from bridge.embedded.leftovers import Session, find_processes  # noqa: PLC0415

    stranger = await asyncio.create_subprocess_exec("/bin/sleep", "600", start_new_session=True)
    try:
        session = Session.of(stranger.pid)
        assert session is not None
        assert [p.pid for p in find_processes(own_state.name, [session])] == [stranger.pid]
        older = Session(stranger.pid, session.started - 60)
        assert find_processes(own_state.name, [older]) == []
        assert find_processes(own_state.name) == []
    finally:
        os.kill(stranger.pid, signal.SIGKILL)
        await stranger.wait()
