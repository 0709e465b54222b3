"""Trainings that have not ended, with how far they are."""

from dataclasses import asdict
from typing import Any

from redis.asyncio import Redis

from bridge.channels import REDIS_LOST
from bridge.errors import BridgeError
from bridge.overview.parts import bounded
from bridge.results import RedisResults
from bridge.settings import Settings
from bridge.trainings import Trainings


async def find_trainings(settings: Settings) -> list[dict[str, Any]]:
    """What `Job` holds of each, and `progress`: its last report, or None.

    Empty if Redis cannot be asked, or does not let this user: the parts tell.
    """
    try:
        return await bounded(_find(settings))
    except (BridgeError, *REDIS_LOST):
        return []


async def _find(settings: Settings) -> list[dict[str, Any]]:
    results = RedisResults(settings)
    try:
        async with Redis.from_url(settings.redis_connect_url) as redis:
            rows = []
            for job in await Trainings(redis, settings).all():
                report = await results.get_progress(job.task_id)
                rows.append({**asdict(job), "progress": report.meta if report else None})
            return rows
    finally:
        await results.shutdown()
