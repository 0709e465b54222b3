"""Counts for Prometheus, of all processes of a worker pool together, alive or dead.

Enters: what becomes of messages, told by the intake. Leaves: Prometheus' text format. Each process
writes into a file of its own, in a folder of the pool; who is scraped reads them all. Import it
only in a worker that has BRIDGE_METRICS_PORT: it makes the folder.
"""

import os
from pathlib import Path
from typing import Any

from bridge.errors import BridgeError, Outcome
from bridge.health import pool_folder

_FOLDER = pool_folder() / "metrics"
_FOLDER.mkdir(mode=0o700, exist_ok=True)
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_FOLDER)

from prometheus_client import (  # noqa: E402 - it reads the variable when it is imported
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
    values,
)

# What the library chooses when it is imported, which a user's module may have done before.
_shared: Any = values.MultiProcessValue
values.ValueClass = _shared()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)

_TASKS = Counter(
    "bridge_tasks", "Tasks that came to their end, by name and outcome.", ["task", "outcome"]
)
_TASK_SECONDS = Histogram(
    "bridge_task_seconds",
    "Seconds that the last try of a task took in a worker, batching and saving included.",
    ["task"],
    buckets=_SECONDS,
)
_RETRIES = Counter(
    "bridge_retries",
    "Tries that ended in an error after which the task comes back.",
    ["task", "error"],
)
_DEAD_LETTERS = Counter(
    "bridge_dead_letters", "Messages that were put into the dead-letter queue.", ["error"]
)
_IN_HAND = Gauge(
    "bridge_messages_in_hand",
    "Messages that the workers have taken and not yet dealt with.",
    multiprocess_mode="livesum",
)
_PAUSED = Gauge(
    "bridge_paused",
    "Worker processes that take no messages, as nothing that waits could be served.",
    multiprocess_mode="livesum",
)


class Counts:
    """What the intake tells. Labels are bounded: names of known tasks, and of our own errors."""

    def ended(self, task: str, outcome: Outcome, seconds: float) -> None:
        """A task has its record, and its message is acknowledged."""
        _TASKS.labels(task, outcome.value).inc()
        _TASK_SECONDS.labels(task).observe(seconds)

    def retried(self, task: str, error: BridgeError) -> None:
        """A task comes back later."""
        _RETRIES.labels(task, type(error).__name__).inc()

    def dead_lettered(self, error: BridgeError) -> None:
        """A message went to the dead letters."""
        _DEAD_LETTERS.labels(type(error).__name__).inc()


def tell(*, in_hand: int, paused: bool) -> None:
    """How this process is at the moment."""
    _IN_HAND.set(in_hand)
    _PAUSED.set(paused)


def render() -> bytes:
    """All processes' figures, in Prometheus' text format."""
    for file in _FOLDER.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if not Path("/proc", pid).exists():  # a dead process has nothing in hand
            marked: Any = multiprocess.mark_process_dead
            marked(pid, str(_FOLDER))
    registry = CollectorRegistry()
    collector: Any = multiprocess.MultiProcessCollector
    collector(registry, str(_FOLDER))
    return generate_latest(registry)
