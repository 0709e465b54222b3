"""`mlbridge cancel`, `pause` and `resume`: have tasks not run, stop running, or go on."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

import typer
from redis.asyncio import Redis

from bridge.cancellations import cancel as cancel_task
from bridge.cli.output import Json, print_json, say
from bridge.client import BridgeClient
from bridge.errors import TooLateError
from bridge.names import check_task_id
from bridge.queues.reach import using_redis
from bridge.settings import Settings, load_settings
from bridge.trainings import Trainings

_CANCELLED, _ENDED = "cancelled", "has ended already"
_TOO_LATE = "too late: it is being published"
_UNKNOWN = "no training of this id is known"
_UNSEEN = f"{_UNKNOWN}; if one comes, it waits for `mlbridge resume`"
_UNTRAINED = f"{_CANCELLED}; {_UNKNOWN} (right for an inference)"

TaskIds = Annotated[list[str], typer.Argument(metavar="TASK_ID...")]


async def _cancel(task_ids: list[str], *, now: bool) -> dict[str, str]:
    """What became of each, in words."""
    settings = load_settings()
    for task_id in task_ids:
        check_task_id(task_id)
    with using_redis(settings.redis_shown):
        async with Redis.from_url(settings.redis_connect_url) as redis:
            return {
                task_id: await _cancel_one(redis, task_id, settings, now=now)
                for task_id in task_ids
            }


async def _cancel_one(redis: Redis, task_id: str, settings: Settings, *, now: bool) -> str:
    known = await Trainings(redis, settings).find(task_id) is not None  # it may be forgotten next
    try:
        if not await cancel_task(redis, task_id, settings.bridge_result_ttl_s, now=now):
            return _ENDED
    except TooLateError:
        return _TOO_LATE
    return _CANCELLED if known else _UNTRAINED


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
    published goes on to its end. Exit code 1 if not one could be cancelled. Nothing is known of an
    inference before it ends: what has no result is taken for one that waits.

    Example: `mlbridge cancel 5f0c2d7e9b3a4c61a0d1e2f3a4b5c6d7`
    """
    became = asyncio.run(_cancel(task_ids, now=now))
    _tell(became, _CANCELLED, as_json=as_json)


def pause(task_ids: TaskIds, *, as_json: Json = False) -> None:
    """Pause trainings: they stop at their next checkpoint, and others have their worker.

    Exit code 1 if not one could be paused, or not one is known: a training that was sent without
    our client is not before it begins, and then waits all the same.

    Example: `mlbridge pause 5f0c2d7e9b3a4c61a0d1e2f3a4b5c6d7`
    """
    became = asyncio.run(_with_client(BridgeClient.pause, task_ids, ("pausing", _UNSEEN)))
    _tell(became, "pausing", as_json=as_json)


def resume(task_ids: TaskIds, *, as_json: Json = False) -> None:
    """Have paused trainings go on from their checkpoints.

    Example: `mlbridge resume 5f0c2d7e9b3a4c61a0d1e2f3a4b5c6d7`
    """
    became = asyncio.run(_with_client(BridgeClient.resume, task_ids, ("resumed", _UNKNOWN)))
    _tell(became, "resumed", as_json=as_json)


async def _with_client(
    ask: Callable[[BridgeClient, str], Awaitable[bool]], task_ids: list[str], words: tuple[str, str]
) -> dict[str, str]:
    async with BridgeClient() as client:
        became = {}
        for task_id in task_ids:
            if not await ask(client, task_id):
                became[task_id] = _ENDED
            else:
                became[task_id] = words[await client.job(task_id) is None]
        return became


def _tell(became: Mapping[str, str], word: str, *, as_json: bool) -> None:
    """Print what became of each task; `word` is what was asked for."""
    done = {task_id: so in {word, _UNTRAINED} for task_id, so in became.items()}
    if as_json:
        print_json([{"task_id": i, word: so, "what": became[i]} for i, so in done.items()])
    else:
        for task_id, so in became.items():
            say(f"{task_id}: {so}")
    if not any(done.values()):
        raise typer.Exit(1)
