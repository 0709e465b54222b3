"""Whether a task was really told to stop. No I/O.

aiormq raises CancelledError into whoever waits for a connection that has fallen silent. Nobody has
cancelled his task, and one that ended for it would never be begun again.
"""

import asyncio


def told_to_stop(error: BaseException) -> bool:
    """Whether an error is the cancellation of the very task that caught it."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
