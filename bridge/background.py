"""Tasks that run side by side or in the background, and their end. No I/O.

For one that waits or polls, once is not enough: `asyncio.wait_for` before Python 3.12, and with it
aiormq, loses a cancellation that comes just when what it waits for is done, and redis-py loses some
while it connects. Whoever tries again after that never stops.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

_AGAIN_S = 0.5


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks that wait or poll, until they are done; what they raise is left in them."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it was looked at: asyncio need not complain


async def cancel_once(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks that tidy up, and wait for it: a second time would disturb them.

    What they raise is left in them.
    """
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def all_or_nothing(jobs: Iterable[Awaitable[None]]) -> None:
    """Run side by side; the first failure cancels the others and is raised as it is.

    Unlike `asyncio.gather`, it returns when none runs any more, also when it is cancelled itself.
    """
    tasks = [asyncio.ensure_future(job) for job in jobs]
    if not tasks:
        return
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await cancel_once(*tasks)
