"""`/livez` and `/readyz` of a worker pool, with real parts that go and come back."""

import asyncio
import os
import signal
import sys

import httpx
import psutil
import pytest

from bridge.embedded.ports import free_ports
from bridge.embedded.redis import RedisServer
from bridge.embedded.triton import TritonServer

COMMAND = ["-P", "-m", "bridge", "worker", "inference", "--workers", "2"]


@pytest.fixture
def port():
    return free_ports(1)[0]


@pytest.fixture
def there(environment, request, port):
    name = request.node.name[:80]
    own = dict.fromkeys(("TASKIQ_ML_QUEUE", "TASKIQ_ML_ROUTING_KEY"), name)
    return environment | own | {"BRIDGE_METRICS_PORT": str(port)}


@pytest.fixture
async def ask(port):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:

        async def ask(path, until):
            """Ask until the status is that; a part that goes is noticed within seconds."""
            async with asyncio.timeout(40):
                while True:
                    try:
                        answer = await client.get(path)
                    except httpx.TransportError:
                        answer = None
                    if answer is not None and answer.status_code == until:
                        return answer.json()
                    await asyncio.sleep(0.1)

        yield ask


def parts(answer):
    """What is wrong, of all processes together."""
    return {
        name: told
        for process in answer["processes"].values()
        for name, told in process["parts"].items()
        if told != "ok"
    }


async def test_readyz_says_which_part_is_missing_and_livez_does_not_mind(
    there, new_worker, ask, state, model_repository
):
    async with (
        TritonServer(state, model_repository, models=["double"]) as triton,
        RedisServer(state) as redis,
    ):
        there |= {"TRITON_URL": triton.address, "REDIS_URL": redis.url}
        await new_worker(COMMAND, there, processes=2)
        answer = await ask("/readyz", 200)
        assert len(answer["processes"]) == 2
        await triton.kill()
        assert "is not available" in parts(await ask("/readyz", 503))["triton"]
        assert (await ask("/livez", 200))["status"] == "ok"
        await triton.start()
        await ask("/readyz", 200)
        await redis.kill()
        assert "cannot use Redis" in parts(await ask("/readyz", 503))["redis"]
        await redis.start()
        await ask("/readyz", 200)


async def test_a_process_that_hangs_is_told_and_one_that_ends_is_replaced(
    there, new_worker, ask, monkeypatch
):
    worker = await new_worker(COMMAND, there, processes=2)
    first = await ask("/livez", 200)
    serving, waiting = sorted(
        psutil.Process(worker.process.pid).children(),
        key=lambda process: not any(it.status == "LISTEN" for it in process.net_connections()),
    )
    assert {str(serving.pid), str(waiting.pid)} == set(first["processes"])
    waiting.suspend()
    answer = await ask("/livez", 503)
    assert not answer["processes"][str(waiting.pid)]["live"]
    assert answer["processes"][str(serving.pid)]["live"]
    waiting.resume()
    await ask("/livez", 200)
    os.kill(serving.pid, signal.SIGKILL)
    while str(serving.pid) in (after := await ask("/livez", 200))["processes"]:
        await asyncio.sleep(0.1)
    assert after["status"] == "ok"


@pytest.mark.parametrize("pool", ["inference", "training"])
async def test_processes_whose_main_process_was_killed_end_and_leave_the_port(
    there, new_worker, ask, pool
):
    own = {"TASKIQ_ML": f"killed.{pool}", "TASKIQ_ML_TRAINING": f"killed.{pool}.training"}
    there |= {f"{name}_{of}": own[name] for name in own for of in ("QUEUE", "ROUTING_KEY")}
    command = [*COMMAND[:4], pool, "--workers", "2"]
    worker = await new_worker(command, there, processes=2)
    await ask("/livez", 200)
    processes = psutil.Process(worker.process.pid).children()
    assert len(processes) == 2
    worker.process.kill()
    _, left = await asyncio.to_thread(psutil.wait_procs, processes, 20)
    assert not left
    await new_worker(command, there, processes=2)
    after = await ask("/livez", 200)
    assert not {str(process.pid) for process in processes} & after["processes"].keys()


async def test_processes_whose_main_process_was_killed_while_they_began_end_too(there, new_worker):
    worker = await new_worker(COMMAND, there, processes=0)
    main = psutil.Process(worker.process.pid)
    async with asyncio.timeout(20):
        while len(processes := main.children()) < 2:
            await asyncio.sleep(0.01)
    worker.process.kill()
    _, left = await asyncio.to_thread(psutil.wait_procs, processes, 20)
    assert not left


async def test_a_port_that_is_taken_is_an_error_that_says_so(there, new_worker, port):
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    async with server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *COMMAND,
            env=there | {"BRIDGE_METRICS_HOST": "127.0.0.1"},
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert f"BRIDGE_METRICS_PORT {port} cannot be used" in errors.decode()
