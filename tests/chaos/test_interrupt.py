"""One Ctrl-C ends a run, whatever it is at, and all that it started."""

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
# As a shell starts what runs in the background.
DEAF = (
    "import os, signal, sys; signal.signal(2, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
)


def lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("at", ["starting RabbitMQ", "rabbitmq killed"])
async def test_one_interrupt_ends_it(at):
    command = [sys.executable, "-P", "chaos/run.py", "--seed", "5", "--only", "rabbitmq killed"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DEAF, *command),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(120):
            while at not in (line := (await process.stderr.readline()).decode()):
                assert line
            await asyncio.sleep(1.0)  # in the middle of it
            started = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            said = (await process.stderr.read()).decode()
            assert await process.wait() == 130, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert started
    left, deadline = started, asyncio.get_running_loop().time() + 20
    while left and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
        left = [it for it in started if lives(it)]
    assert not left
    assert "interrupted" in said
