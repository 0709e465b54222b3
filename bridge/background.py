"""Ends tasks that run in the background. No I/O.

One cancellation is not enough: `asyncio.wait_for` before Python 3.12, and with it aiormq, loses one
that comes just when what it waits for is done, and redis-py loses some while it connects.
"""

import asyncio
from typing import Any

_AGAIN_S = 1.0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel them, and again each second, until they have ended; what they raise is nobody's."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
