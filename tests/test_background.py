"""Tasks in the background end, also where a cancellation gets lost."""

import asyncio

from bridge.background import end


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
