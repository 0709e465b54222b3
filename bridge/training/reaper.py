"""Hands on the trainings that nobody owns, and forgets those that have ended. No torch."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from bridge.jobs import Jobs

logger = logging.getLogger("bridge.training")

Publish = Callable[[bytes, int], Awaitable[None]]


async def reap(jobs: Jobs, publish: Publish, *, every_s: float) -> None:
    """Hand on what nobody owns, and forget what has ended, until cancelled.

    A queue delivers a message again once it knows that its worker is gone. A worker that hangs, or
    whose connection does, keeps it for minutes or for ever: this is for those.

    Args:
        jobs: all of them.
        publish: puts a message with this baton into the queue.
        every_s: how often to look, and for how long a lease must be over.
    """
    while True:
        await asyncio.sleep(every_s)
        try:
            for task_id in await jobs.overdue(every_s):
                passed = await jobs.hand_on(task_id)
                if passed is not None:
                    token, message = passed
                    await publish(message, token)
                    await jobs.handed_on(task_id, token)
                    logger.warning("task %s had nobody: it goes on from its checkpoint", task_id)
            await jobs.sweep()
        except Exception as error:  # noqa: BLE001 - Redis or the queue is away; it looks again
            logger.info("cannot look for tasks that nobody owns: %s", error)
