"""Tasks in the background end, also where a cancellation gets lost."""

import asyncio

from bridge.background import cancel_once, end


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
