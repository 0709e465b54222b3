"""A slice that was lost, and the one that follows it in the very same worker."""

import asyncio
from types import SimpleNamespace

import pytest

from bridge.deliveries import Turn
from bridge.errors import LeaseLostError, TaskCancelledError
from bridge.observer import SILENT
from bridge.training.lease import Lease
from bridge.training.running import Running


@pytest.fixture
def running():
    """A worker's slices, with nothing behind them."""
    intake = SimpleNamespace(cancelled=set(), observer=SILENT)
    results = SimpleNamespace(redis=None)
    return Running(None, intake, results, worker="w", at_once=lambda: 1)


class Slow:
    """A training that ends when it is told to, and takes a while to be lost."""

    task_id = "a"
    request = SimpleNamespace(model_id="a-model")

    async def go_on(self, turn, on_progress):
        del on_progress
        try:
            await turn.stop.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
            raise


def lease(token, answers):
    async def renew(task_id, token):
        del task_id, token
        return answers.pop(0) if answers else ""

    return Lease(SimpleNamespace(renew=renew), "a", token, 0.1)


async def test_both_are_there_at_the_same_time(running):
    lost = lease(1, ["", "lost"])
    first = asyncio.create_task(running.run(Slow(), lost, 1, Turn()))
    await asyncio.sleep(0)
    second = asyncio.create_task(running.run(Slow(), lease(2, []), 2, Turn()))
    with pytest.raises(LeaseLostError):
        await first
    assert not second.done()
    # Word of it comes to the one that is left.
    running.cancel("a", False)  # noqa: FBT003 - as listeners get it
    with pytest.raises(TaskCancelledError):
        await second
    assert not running._slices


async def test_one_that_begins_when_the_worker_stops_is_told(running):
    running.stop()
    async with asyncio.timeout(10):
        assert await running.run(Slow(), lease(1, []), 1, Turn()) is None
