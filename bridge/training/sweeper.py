"""Deletes the checkpoints and logs that nobody will ask for again. No torch."""

import asyncio
import logging
import random

from bridge.jobs import Jobs
from bridge.training.checkpoint_store import CheckpointStore
from bridge.training.checkpoints import clean, room

_EVERY_S = 600.0

logger = logging.getLogger("bridge.training")


async def sweep(jobs: Jobs, store: CheckpointStore, keep_s: float) -> None:
    """Sweep once; see `clean`. A training that has not ended loses nothing, however old it is.

    Raises:
        CheckpointError: the store cannot be used.
        RedisError: nobody knows which trainings have not ended; or another of REDIS_LOST.
    """
    rooms = await store.jobs()
    if rooms:
        living = {room(job.task_id) for job in await jobs.all()}
        await clean(store, keep_s, living)


async def keep_swept(jobs: Jobs, store: CheckpointStore, keep_s: float) -> None:
    """Sweep every ten minutes or so, until cancelled."""
    while True:
        await asyncio.sleep(_EVERY_S * random.uniform(0.5, 1.5))  # noqa: S311 - spreads workers
        try:
            await sweep(jobs, store, keep_s)
        except Exception as error:  # noqa: BLE001 - Redis or the store is away; it sweeps again
            logger.info("old checkpoints are not deleted now: %s", error)
