"""One child process, played by small Python programs."""

import asyncio
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from bridge.embedded import ports
from bridge.embedded.ports import free_ports
from bridge.embedded.process import Process, clean_environment
from bridge.embedded.state import StateFolder
from bridge.errors import RuntimeStartError

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
# A grandchild in a session of its own, as Erlang's helpers are.
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
print("grandchild", child.pid, flush=True)
time.sleep(600)
"""
# Overwrites its environment, as setproctitle does, so that only the session tells whose it is.
NAMELESS = """
import ctypes, os, subprocess, sys, time
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "child"])
text = open("/proc/self/stat").read().rpartition(")")[2].split()
start, end = int(text[47]), int(text[48])
ctypes.memset(start, 0, end - start)
print("hidden", os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def process(own_state: StateFolder) -> Process:
    return Process(own_state, own_state.room("program"), "program")


async def start(process: Process, program: str) -> None:
    await process.start([sys.executable, "-c", program], clean_environment())


async def said(process: Process, text: bytes) -> bool:
    return text in process.log_since_start()


async def test_a_program_that_ends_while_starting(process: Process) -> None:
    await start(process, "print('the reason'); raise SystemExit(3)")
    with pytest.raises(RuntimeStartError, match=r"code 3.*Do this\.\nIts last lines:\nthe reason"):
        await process.wait_ready(lambda: said(process, b"never"), timeout_s=20, remedy="Do this.")


async def test_a_program_that_is_never_ready(process: Process) -> None:
    await start(process, "import time; print('busy', flush=True); time.sleep(600)")
    with pytest.raises(RuntimeStartError, match=r"not ready within 0.5 s. Do this"):
        await process.wait_ready(lambda: said(process, b"never"), timeout_s=0.5, remedy="Do this.")
    await process.kill()
    assert process.returncode == -9


async def test_a_program_that_is_not_there(process: Process) -> None:
    with pytest.raises(RuntimeStartError, match=r"cannot start program: .*No such file"):
        await process.start(["/no/such/program"], {})
    await process.stop(timeout_s=1)


async def test_stop_kills_what_ignores_sigterm_and_what_left_the_session(process: Process) -> None:
    await start(process, STUBBORN)
    await process.wait_ready(lambda: said(process, b"grandchild"), timeout_s=20, remedy="")
    grandchild = psutil.Process(int(process.log_since_start().split()[1]))
    began = time.monotonic()
    await process.stop(timeout_s=0.3)
    assert time.monotonic() - began < 5
    assert process.returncode == -9
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


async def test_stop_that_is_cancelled_still_ends_it(process: Process) -> None:
    await start(process, STUBBORN)
    await process.wait_ready(lambda: said(process, b"grandchild"), timeout_s=20, remedy="")
    stopping = asyncio.create_task(process.stop(timeout_s=60))
    await asyncio.sleep(0.1)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert process.returncode == -9


async def test_a_program_without_environment_is_found_by_its_session(
    own_state: StateFolder, process: Process
) -> None:
    script = own_state.path / "nameless.py"
    script.write_text(NAMELESS)
    await process.start([sys.executable, str(script)], clean_environment())

    async def both_hidden() -> bool:
        return process.log_since_start().count(b"hidden") == 2

    await process.wait_ready(both_hidden, timeout_s=20, remedy="")
    ids = [int(word) for word in process.log_since_start().split() if word.isdigit()]
    assert all(psutil.Process(pid).environ() == {} for pid in ids)
    await process.kill()
    assert not any(alive(pid) for pid in ids)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_passwords_of_ours_do_not_reach_a_server(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_PASSWORD", "secret")
    await start(process, "import os; print(sorted(os.environ))")
    await process.wait()
    assert await said(process, b"'PATH'")
    assert not await said(process, b"RABBITMQ_PASSWORD")


def test_free_ports_differ_and_are_free(port_is_free: Callable[[int], bool]) -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(port_is_free(port) for port in ports)


async def test_two_processes_are_not_given_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither listens yet: RabbitMQ, for one, takes seconds until it does."""
    program = "from bridge.embedded.ports import free_ports; print(*free_ports(20)); input()"
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", program),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdout is not None
    theirs = [int(word) for word in (await other.stdout.readline()).split()]
    draws = iter(theirs)
    monkeypatch.setattr(ports.random, "randrange", lambda least, most: next(draws, least))
    assert not {*free_ports(1)} & {*theirs}
    assert next(draws, None) is None  # each was drawn here too
    await other.communicate(b"\n")
    draws = iter(theirs)
    assert free_ports(20) == theirs  # theirs ended with them


def test_ports_that_were_given_long_ago_cost_nothing() -> None:
    before = psutil.Process().num_fds()
    for _ in range(20):
        free_ports(20)
    assert psutil.Process().num_fds() <= before + 128
