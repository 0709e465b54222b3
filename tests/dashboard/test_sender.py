"""Notes reach the real dashboard; one that is away, silent or full costs nothing but notes."""

import asyncio
import contextlib
import json
import socket
import time
import uuid

import httpx
import pytest

from bridge.dashboard.sender import Sender
from bridge.embedded.dashboard import DashboardServer

WAIT_S = 90
STARTED = json.dumps(
    {
        "args": [],
        "kwargs": {},
        "labels": {},
        "taskName": "shop_task",
        "worker": "w",
        "startedAt": "2026-01-01T00:00:00",
    }
).encode()
EXECUTED = json.dumps(
    {
        "finishedAt": "2026-01-01T00:00:01",
        "executionTime": 1.0,
        "error": None,
        "returnValue": {"return_value": {"value": 1}},
    }
).encode()


async def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.fixture
async def server(state):
    async with DashboardServer(state) as server:
        yield server


async def test_a_restart_is_waited_out(server, caplog):
    sender = Sender(server.url, server.token)
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    sender.put(first, "started", STARTED)
    await until(lambda: sender.sent == 1)
    await server.stop()
    sender.put(first, "executed", EXECUTED)
    sender.put(second, "started", STARTED)
    await until(lambda: "does not take what it is told" in caplog.text)
    await server.start()
    await until(lambda: sender.sent == 3)
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert "Completed" in (await http.get(f"/tasks/{first}")).text
        assert "In progress" in (await http.get(f"/tasks/{second}")).text
    await sender.close()
    assert sender.dropped == 0
    assert caplog.text.count("does not take what it is told") == 1


async def test_a_wrong_token_is_told_once_and_does_not_stop_the_rest(server, caplog):
    wrong = Sender(server.url, "wrong-token")
    for _ in range(3):
        wrong.put(str(uuid.uuid4()), "started", STARTED)
    await until(lambda: wrong.dropped >= 1)
    await wrong.close()
    assert wrong.sent == 0
    assert caplog.text.count("TASKIQ_DASHBOARD_TOKEN right?") == 1
    assert "wrong-token" not in caplog.text


async def test_a_token_that_no_header_can_hold_is_told_and_not_shown(caplog, capfd):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listens:
        for token in ("hidden\ntoken", "hidden-\u0442oken"):
            caplog.clear()
            sender = Sender(f"http://127.0.0.1:{listens.getsockname()[1]}", token)
            sender.put(str(uuid.uuid4()), "started", STARTED)
            await until(lambda: "TASKIQ_DASHBOARD_TOKEN right?" in caplog.text)
            await sender.close()
            assert (sender.sent, sender.dropped) == (0, 1)
            assert "hidden" not in caplog.text
    assert "hidden" not in "".join(capfd.readouterr())


async def test_a_silent_dashboard_fills_a_bounded_buffer(caplog):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        sender = Sender(f"http://127.0.0.1:{silent.getsockname()[1]}", "token")
        ids = [str(uuid.uuid4()) for _ in range(5_000)]
        for task_id in ids:
            sender.put(task_id, "started", STARTED)
        left_out = sender.dropped
        assert 0 < left_out < len(ids)
        for task_id in ids:
            sender.put(task_id, "executed", EXECUTED)
        # Those whose beginning was taken have their end, the others have neither.
        assert sender.dropped == 2 * left_out
        await sender.close()
        assert sender.dropped == 2 * len(ids)
        assert caplog.text.count("does not keep up") == 1


async def test_a_note_that_the_dashboard_fails_on_holds_up_no_other(server):
    sender = Sender(server.url, server.token)
    good = str(uuid.uuid4())
    sender.put(str(uuid.uuid4()), "started", b'{"not": "what it takes"}')
    sender.put(good, "started", STARTED)
    await until(lambda: sender.sent == 1)
    assert sender.dropped == 1
    await sender.close()
