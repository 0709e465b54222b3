"""What tests of the embedded runtime look for: processes, ports and files that stayed behind."""

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from bridge.embedded.leftovers import MARK_VARIABLE
from bridge.embedded.state import StateFolder


@pytest.fixture
async def own_state() -> AsyncIterator[StateFolder]:
    """A state folder of the test's own, checked afterwards."""
    async with StateFolder() as folder:
        yield folder
    assert traces(folder.name) == []


@pytest.fixture
def find_traces() -> Callable[[str], list[str]]:
    return traces


def traces(state_name: str) -> list[str]:
    """Processes, shared memory and files of a state folder of that name."""
    found = [str(path) for path in Path("/tmp").glob(f"{state_name}*")]
    found += [str(path) for path in Path("/dev/shm").glob(f"{state_name}*")]
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            command, variables = " ".join(process.cmdline()), process.environ()
        except psutil.Error:
            continue
        if state_name in command or variables.get(MARK_VARIABLE, "").startswith(state_name):
            found.append(f"{process.pid} {command}")
    return found


@pytest.fixture
def port_is_free() -> Callable[[int], bool]:
    def free(port: int) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) != 0

    return free
