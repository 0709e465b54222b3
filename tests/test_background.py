"""Tasks in the background end, also where a cancellation gets lost."""

import asyncio

import pytest

from bridge.background import all_or_nothing, cancel_once, end
from bridge.errors import RuntimeStartError


async def test_one_that_loses_cancellations_ends_all_the_same():
    lost = 0

    async def deaf():
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if (lost := lost + 1) == 2:
                    raise

    async def failing():
        raise ValueError

    tasks = [asyncio.create_task(work) for work in (deaf(), failing(), asyncio.sleep(60))]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await end(*tasks)
    assert lost == 2
    assert [task.done() for task in tasks] == [True, True, True]
    await end()
    await end(*tasks)


async def test_one_that_tidies_up_is_cancelled_once():
    tidied = []

    async def tidying():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            tidied.append(True)

    async def failing():
        raise ValueError

    tasks = [asyncio.create_task(work) for work in (tidying(), failing(), asyncio.sleep(0))]
    await asyncio.sleep(0.01)
    await cancel_once(*tasks)
    assert tidied == [True]
    assert [task.cancelled() for task in tasks] == [True, False, False]
    await cancel_once()


class Tidying:
    """Jobs, and how many tidy up, which takes them a while and must not be disturbed."""

    def __init__(self):
        self.running = self.tidied = 0

    async def job(self):
        self.running += 1
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            self.running -= 1
            self.tidied += 1

    async def quick(self):
        await asyncio.Event().wait()

    async def fails(self):
        while not self.running:
            await asyncio.sleep(0)
        raise RuntimeStartError("no such program")


@pytest.mark.parametrize("order", [1, -1])
async def test_nothing_runs_any_more_when_one_has_failed(order):
    it = Tidying()
    with pytest.raises(RuntimeStartError, match="no such program"):
        await all_or_nothing([it.quick(), it.fails(), it.job(), it.job()][::order])
    assert (it.running, it.tidied) == (0, 2)


async def test_nothing_runs_any_more_when_it_was_cancelled():
    """What ends at once must not make it return while others tidy up."""
    it = Tidying()
    starting = asyncio.create_task(all_or_nothing([it.quick(), it.job(), it.job()]))
    while it.running < 2:
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert (it.running, it.tidied) == (0, 2)


async def test_nothing_to_run():
    await all_or_nothing([])
