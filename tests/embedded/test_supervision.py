"""Parts are started again, but not for ever; with servers that live in memory."""

import asyncio

import pytest

from bridge.embedded.parts import PartState
from bridge.embedded.supervision import Supervision
from bridge.errors import RuntimeStartError


class Falling:
    """Ends at once, as often as it is started; `stands` after so many starts."""

    def __init__(self, stands=None):
        self.starts = 0
        self.stopped = False
        self._stands = stands
        self.process = self

    async def start(self):
        self.starts += 1

    async def wait(self):
        if self.starts == self._stands:
            await asyncio.Event().wait()
        return 7

    async def kill(self):
        pass

    async def stop(self):
        self.stopped = True

    def described_tail(self):
        return ""


async def test_a_part_that_ends_too_often_is_given_up():
    server, told = Falling(), []
    supervision = Supervision(lambda part: told.append(part.state))
    await supervision.start("redis", server, "localhost:1")
    with pytest.raises(RuntimeStartError, match=r"^redis ended 4 times within 60 s, at last with"):
        await supervision.watch(asyncio.Event())
    assert server.starts == 4
    assert told[:2] == [PartState.STARTING, PartState.RUNNING]
    assert told[2:] == [PartState.RESTARTING, PartState.RUNNING] * 3 + [PartState.FAILED]


async def test_a_part_that_stands_is_watched_until_the_end_and_stopped():
    server, stop = Falling(stands=3), asyncio.Event()
    supervision = Supervision()
    supervision.add_found("triton", "localhost:2")
    await supervision.start("redis", server, "localhost:1")
    watching = asyncio.create_task(supervision.watch(stop))
    async with asyncio.timeout(10):
        while server.starts < 3:
            await asyncio.sleep(0)
    stop.set()
    await watching
    await supervision.stop()
    assert server.stopped
    assert [part.state for part in supervision.parts] == [PartState.FOUND, PartState.STOPPED]
