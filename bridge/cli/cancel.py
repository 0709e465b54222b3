"""`mlbridge cancel`: have tasks not run, or stop running."""

import asyncio
from typing import Annotated

import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from bridge.cancellations import cancel as cancel_task
from bridge.cli.output import Json, console, print_json
from bridge.errors import QueueError
from bridge.names import check_name
from bridge.settings import load_settings


async def _cancel(task_ids: list[str]) -> dict[str, bool]:
    settings = load_settings()
    for task_id in task_ids:
        check_name("task id", task_id)
    try:
        async with Redis.from_url(settings.redis_connect_url) as redis:
            return {
                task_id: await cancel_task(redis, task_id, settings.bridge_result_ttl_s)
                for task_id in task_ids
            }
    except (RedisError, OSError) as error:
        raise QueueError(f"cannot use Redis at {settings.redis_shown}: {error}") from None


def cancel(
    task_ids: Annotated[list[str], typer.Argument(metavar="TASK_ID...")],
    *,
    as_json: Json = False,
) -> None:
    """Cancel tasks, wherever they are: in the queue, in a batch, inside Triton, in training.

    Who waits for one gets `TaskCancelledError` at once. A task that has ended keeps its result.
    Exit code 1 if not one could be cancelled.

    Example: `mlbridge cancel 5f0c2d7e9b3a4c61a0d1e2f3a4b5c6d7`
    """
    cancelled = asyncio.run(_cancel(task_ids))
    if as_json:
        print_json([{"task_id": id_, "cancelled": done} for id_, done in cancelled.items()])
    else:
        for task_id, done in cancelled.items():
            console.print(f"{task_id}: {'cancelled' if done else 'has ended already'}")
    if not any(cancelled.values()):
        raise typer.Exit(1)
