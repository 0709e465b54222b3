"""A slice that was lost, and the one that follows it in the very same worker."""

import asyncio
from types import SimpleNamespace

import pytest

from bridge.deliveries import Turn
from bridge.errors import LeaseLostError, TaskCancelledError


@pytest.fixture
def worker():
    """The training worker's module; nothing of it is connected."""
    from bridge.tasks import training  # noqa: PLC0415 - it reads the environment

    return training


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


def lease(worker, token, answers):
    async def renew(task_id, token):
        del task_id, token
        return answers.pop(0) if answers else ""

    return worker.Lease(SimpleNamespace(renew=renew), "a", token, 0.1)


async def test_both_are_there_at_the_same_time(worker):
    lost = lease(worker, 1, ["", "lost"])
    first = asyncio.create_task(worker._slice(Slow(), lost, 1, Turn()))
    await asyncio.sleep(0)
    second = asyncio.create_task(worker._slice(Slow(), lease(worker, 2, []), 2, Turn()))
    with pytest.raises(LeaseLostError):
        await first
    assert not second.done()
    # Word of it comes to the one that is left.
    worker._cancel("a", False)  # noqa: FBT003 - as listeners get it
    with pytest.raises(TaskCancelledError):
        await second
    assert worker._running == []
