"""One look at everything, all parts at a time."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from bridge.names import DEAD_LETTERS
from bridge.overview.histograms import Histograms, Quantiles, quantiles
from bridge.overview.parts import UP, Part, consumers, find_redis, find_triton
from bridge.overview.pools import Worker, find_workers, read_metrics
from bridge.overview.running import find_trainings
from bridge.overview.served import ModelRow, Served, count_served, served_between
from bridge.overview.waiting import QueueRow, find_queues
from bridge.settings import Settings

_TASK_SECONDS = "bridge_task_seconds"


@dataclass(frozen=True, slots=True)
class TaskRow:
    """How long a task's last try took in the workers."""

    task: str
    seconds: Quantiles


@dataclass(frozen=True, slots=True)
class Samples:
    """Counts at one time; two of them make rates."""

    at: float
    """By the monotonic clock."""
    served: Served
    told: Histograms


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it."""

    parts: list[Part]
    queues: list[QueueRow]
    rates_missing: str | None
    """Why the queues have no rates; None: they have, or their server is not up."""
    dead_letters: dict[str, int]
    """By the queue that they were in; only those above 0."""
    workers: list[Worker]
    """Of the pools whose pages are known; the others show as consumers."""
    models: list[ModelRow]
    tasks: list[TaskRow]
    trainings: list[dict[str, Any]]
    window_s: float
    """The rates are of so many seconds."""

    @property
    def missing(self) -> list[Part]:
        """Parts that are not up."""
        return [part for part in self.parts if part.state != UP]


async def take_samples(settings: Settings) -> Samples:
    """Read the counts of Triton and of the workers."""
    served, told = await asyncio.gather(count_served(settings), read_metrics(settings))
    return Samples(time.monotonic(), served, told)


async def look(
    settings: Settings, before: Samples, *, window_s: float = 0.0
) -> tuple[Overview, Samples]:
    """Ask every part.

    Args:
        settings: where they are.
        before: counts from which rates are taken.
        window_s: take at least so many seconds over it.

    Returns:
        What was found, and the counts for the next look.
    """
    waiting, redis, tritons, pools, trainings, _ = await asyncio.gather(
        find_queues(settings),
        find_redis(settings),
        asyncio.gather(*(find_triton(settings, each) for each in settings.triton_addresses)),
        find_workers(settings.worker_urls),
        find_trainings(settings),
        asyncio.sleep(max(0.0, before.at + window_s - time.monotonic())),
    )
    now = await take_samples(settings)
    took_s = max(now.at - before.at, 1e-3)
    queues = {
        "inference": settings.taskiq_ml_queue,
        "training": settings.taskiq_ml_training_queue,
    }
    overview = Overview(
        parts=[
            waiting.part,
            redis,
            *tritons,
            *(consumers(pool, queue, waiting.depths) for pool, queue in queues.items()),
            *(part for part, _ in pools),
        ],
        queues=waiting.rows,
        rates_missing=waiting.rates_missing,
        dead_letters={
            row.queue.removesuffix(DEAD_LETTERS): row.waiting
            for row in waiting.rows
            if row.queue.endswith(DEAD_LETTERS) and row.waiting
        },
        workers=[worker for _, workers in pools for worker in workers],
        models=served_between(before.served, now.served, took_s, (before.told, now.told)),
        tasks=_tasks(before.told, now.told),
        trainings=trainings,
        window_s=took_s,
    )
    return overview, now


def _tasks(before: Histograms, now: Histograms) -> list[TaskRow]:
    rows = []
    for metric, task in sorted(now):
        seconds = quantiles(metric, task, before, now) if metric == _TASK_SECONDS else None
        if seconds is not None:
            rows.append(TaskRow(task, seconds))
    return rows
