"""`mlbridge cancel`, `pause` and `resume`: have tasks not run, stop running, or go on."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from bridge.cancellations import cancel as cancel_task
from bridge.cli.output import Json, console, print_json
from bridge.client import BridgeClient
from bridge.errors import QueueError, TooLateError
from bridge.names import check_name
from bridge.settings import load_settings

_CANCELLED, _ENDED = "cancelled", "has ended already"
_TOO_LATE = "too late: it is being published"

TaskIds = Annotated[list[str], typer.Argument(metavar="TASK_ID...")]


async def _cancel(task_ids: list[str], *, now: bool) -> dict[str, str]:
    """What became of each, in words."""
    settings = load_settings()
    for task_id in task_ids:
        check_name("task id", task_id)
    try:
        async with Redis.from_url(settings.redis_connect_url) as redis:
            return {
                task_id: await _cancel_one(redis, task_id, settings.bridge_result_ttl_s, now=now)
                for task_id in task_ids
            }
    except (RedisError, OSError) as error:
        raise QueueError(f"cannot use Redis at {settings.redis_shown}: {error}") from None


async def _cancel_one(redis: Redis, task_id: str, keep_s: int, *, now: bool) -> str:
    try:
        return _CANCELLED if await cancel_task(redis, task_id, keep_s, now=now) else _ENDED
    except TooLateError:
        return _TOO_LATE


def cancel(
    task_ids: TaskIds,
    *,
    now: Annotated[
        bool, typer.Option("--now", help="End a training at once, without a checkpoint.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Cancel tasks, wherever they are: in the queue, in a batch, inside Triton, in training.

    Who waits for one gets `TaskCancelledError` at once. A task that has ended keeps its result.
    A training saves a checkpoint before it ends, unless it shall end now; one whose model is being
    published goes on to its end. Exit code 1 if not one could be cancelled.

    Example: `mlbridge cancel 5f0c2d7e9b3a4c61a0d1e2f3a4b5c6d7`
    """
    became = asyncio.run(_cancel(task_ids, now=now))
    _tell(
        {task_id: word == _CANCELLED for task_id, word in became.items()},
        _CANCELLED,
        as_json=as_json,
        otherwise=became,
    )


def pause(task_ids: TaskIds, *, as_json: Json = False) -> None:
    """Pause trainings: they stop at their next checkpoint, and others have their worker.

    Example: `mlbridge pause 5f0c2d7e9b3a4c61a0d1e2f3a4b5c6d7`
    """
    _tell(asyncio.run(_with_client(BridgeClient.pause, task_ids)), "pausing", as_json=as_json)


def resume(task_ids: TaskIds, *, as_json: Json = False) -> None:
    """Have paused trainings go on from their checkpoints.

    Example: `mlbridge resume 5f0c2d7e9b3a4c61a0d1e2f3a4b5c6d7`
    """
    _tell(asyncio.run(_with_client(BridgeClient.resume, task_ids)), "resumed", as_json=as_json)


async def _with_client(
    ask: Callable[[BridgeClient, str], Awaitable[bool]], task_ids: list[str]
) -> dict[str, bool]:
    async with BridgeClient() as client:
        return {task_id: await ask(client, task_id) for task_id in task_ids}


def _tell(
    done: dict[str, bool], word: str, *, as_json: bool, otherwise: Mapping[str, str] | None = None
) -> None:
    """Print of each task whether it is done, and what it is otherwise."""
    if as_json:
        print_json([{"task_id": task_id, word: so} for task_id, so in done.items()])
    else:
        for task_id, so in done.items():
            console.print(f"{task_id}: {word if so else (otherwise or {}).get(task_id, _ENDED)}")
    if not any(done.values()):
        raise typer.Exit(1)
