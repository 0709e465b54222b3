"""`mlbridge worker`: a worker pool with the flags that suit its queue."""

import asyncio
import os
from enum import StrEnum
from typing import Annotated

import typer

from bridge.embedded.workers import worker_command
from bridge.queues import build_broker
from bridge.settings import Settings, load_settings


class Pool(StrEnum):
    """The two pools."""

    INFERENCE = "inference"
    TRAINING = "training"


async def _check_queue(settings: Settings, pool: Pool) -> None:
    broker = build_broker(settings, pool.value)
    try:
        await broker.startup()
    finally:
        await broker.shutdown()


def worker(
    pool: Annotated[Pool, typer.Argument(help="Which queue to serve.")],
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Worker processes. Default: ML_WORKER_COUNT for inference, 1 for training."
        ),
    ] = None,
) -> None:
    """Serve one queue until SIGTERM or Ctrl-C.

    The queue is reached for once before the processes start, so that a wrong address or password
    is one clear sentence.

    Example: `TRITON_URL=gpu-1:8001 mlbridge worker inference --workers 4`
    """
    settings = load_settings()
    asyncio.run(_check_queue(settings, pool))
    count = workers or (settings.ml_worker_count if pool is Pool.INFERENCE else 1)
    command = worker_command(pool.value, count)
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, our own arguments
