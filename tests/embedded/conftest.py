"""What tests of the embedded runtime look for: what stayed behind, and ports."""

import socket
from collections.abc import AsyncIterator, Callable

import pytest

from bridge.embedded.state import StateFolder


@pytest.fixture
async def own_state(find_traces: Callable[[str], list[str]]) -> AsyncIterator[StateFolder]:
    """A state folder of the test's own, checked afterwards."""
    async with StateFolder() as folder:
        yield folder
    assert find_traces(folder.name) == []


@pytest.fixture
def port_is_free() -> Callable[[int], bool]:
    def free(port: int) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) != 0

    return free
