"""Ends asyncio tasks for certain. No torch.

Enters: tasks. Leaves: nothing, once all of them are done.
"""

import asyncio
from typing import Any

_AGAIN_S = 0.5


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks that wait or poll, until they are done; what they raise is left in them.

    Once is not enough: a library that awaits with a time limit may take a cancellation for the end
    of that, and whoever tries again after such an end then never stops.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it was looked at: asyncio need not complain
