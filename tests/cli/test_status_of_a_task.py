"""`mlbridge status TASK_ID` beside a Redis that takes its time."""

import asyncio
import contextlib

import pytest
from taskiq import TaskiqResult

from bridge.cli import status
from bridge.errors import QueueError
from bridge.messages import encode_result
from bridge.settings import Settings

DONE = encode_result(TaskiqResult(is_err=False, return_value=42, execution_time=0.1))


@contextlib.asynccontextmanager
async def slow_redis(delay_s, value):
    """Answers GET with `value` after a while, and knows nothing else; what clients need to know."""

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                words = int((await reader.readuntil(b"\r\n"))[1:])
                command = []
                for _ in range(words):
                    size = int((await reader.readuntil(b"\r\n"))[1:])
                    command.append((await reader.readexactly(size + 2))[:-2])
                if command[0] == b"GET":
                    await asyncio.sleep(delay_s)
                    writer.write(b"$%d\r\n%b\r\n" % (len(value), value) if value else b"$-1\r\n")
                else:
                    writer.write(b"*0\r\n" if command[0] == b"HGETALL" else b"+OK\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Settings(redis_url=f"redis://:hidden-redis@127.0.0.1:{port}/0?protocol=2")


async def test_a_result_that_takes_a_while_to_read_is_no_unknown_task():
    async with slow_redis(0.5, DONE) as settings:
        found = await status._task("order:42", settings)
    assert found == {"task_id": "order:42", "state": "succeeded", "result": 42}


async def test_what_redis_has_nothing_of_is_unknown():
    async with slow_redis(0, b"") as settings:
        found = await status._task("typo", settings)
    assert found == {"task_id": "typo", "state": "unknown", "progress": None}


async def test_a_redis_that_does_not_answer_in_time_is_told(monkeypatch):
    monkeypatch.setattr(status, "_READ_S", 0.3)
    async with slow_redis(2, DONE) as settings:
        with pytest.raises(QueueError, match=r"did not answer within 0\.3 s") as caught:
            await status._task("t", settings)
    assert "hidden-redis" not in str(caught.value)


async def test_a_redis_that_is_away_is_told():
    async with slow_redis(0, DONE) as settings:
        pass
    with pytest.raises(QueueError, match=r"cannot use Redis at .*; check REDIS_URL"):
        await status._task("t", settings)
