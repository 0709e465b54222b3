"""Every metric's name, labels and help: what docs/monitoring.md has as a table.

The only module that makes Prometheus' counters and histograms. Importing it makes the folder of
the pool, in which each of its processes has files.
"""

import os
import sys
from typing import Any, Literal, NamedTuple

from bridge.health import pool_folder

FOLDER = pool_folder() / "metrics"
"""Of this pool; gone with it."""
FOLDER.mkdir(mode=0o700, exist_ok=True)
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(FOLDER)

from prometheus_client import Counter, Histogram, values  # noqa: E402 - it reads the variable

from bridge.metrics.reserved import ReservedFile  # noqa: E402 - so does this

# What the library chooses when it is imported, which a user's module may have done before.
_library: Any = values
if sys.platform == "linux":
    _library.MmapedDict = ReservedFile
_shared: Any = values.MultiProcessValue
values.ValueClass = _shared()

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

TASKS = Counter(
    "bridge_tasks",
    "Tasks that came to their end, by name, model, version and outcome.",
    ["task", "model", "version", "outcome"],
)
TASK_SECONDS = Histogram(
    "bridge_task_seconds",
    "Seconds that the last try of a task took in a worker, batching and saving included.",
    ["task"],
    buckets=_SECONDS,
)
QUEUE_SECONDS = Histogram(
    "bridge_queue_seconds",
    "Seconds from sending a task until a worker first took it.",
    ["task"],
    buckets=_LONG,
)
BATCH_WAIT_SECONDS = Histogram(
    "bridge_batch_wait_seconds",
    "Seconds that a caller's rows waited in a worker for their request to Triton.",
    ["model"],
    buckets=_SECONDS,
)
TRITON_SECONDS = Histogram(
    "bridge_triton_seconds",
    "Seconds from sending a request to Triton until it answered or failed.",
    ["model"],
    buckets=_SECONDS,
)
SAVE_SECONDS = Histogram(
    "bridge_save_seconds",
    "Seconds until a result was in Redis, waiting for a Redis that is away included.",
    buckets=_SECONDS,
)
BATCH_ROWS = Histogram(
    "bridge_batch_rows", "Rows in a request to Triton.", ["model"], buckets=_ROWS
)
RETRIES = Counter(
    "bridge_retries",
    "Tries that ended in an error after which the task comes back.",
    ["task", "model", "error"],
)
DEAD_LETTERS = Counter(
    "bridge_dead_letters", "Messages that were put into the dead-letter queue.", ["error"]
)
REDELIVERED = Counter(
    "bridge_redelivered", "Messages that came to a worker more than once.", ["task"]
)
PAYLOAD_BYTES = Counter(
    "bridge_payload_bytes",
    "Bytes of messages and results, and of tensors from and to the payload store.",
    ["direction", "way"],
)
MODEL_LOADS = Counter(
    "bridge_model_loads",
    "Models that training workers had Triton load, or reload after a crash.",
    ["model", "outcome"],
)
SLICES = Counter(
    "bridge_training_slices", "Turns at a training, by how they ended.", ["model", "outcome"]
)


class Gauge(NamedTuple):
    """How something stands."""

    help: str
    labels: tuple[str, ...] = ()
    of_processes: Literal["sum", "last"] = "sum"
    """What several processes that say it amount to."""


GAUGES = {
    "bridge_messages_in_hand": Gauge("Messages that workers have taken and not yet dealt with."),
    "bridge_paused": Gauge("Worker processes that take nothing, as nothing could be served."),
    "bridge_model_paused": Gauge(
        "Worker processes that found a model away when they last asked for it.", ("model",)
    ),
    "bridge_requests_in_flight": Gauge("Requests that are out at Triton.", ("model",)),
    "bridge_requests_limit": Gauge(
        "Requests that may be out at Triton, as learnt from its latency.", ("model",)
    ),
    "bridge_waiting_messages": Gauge(
        "Messages that wait in the queue, in no worker's hands.", ("queue",), "last"
    ),
    "bridge_backlog_seconds": Gauge(
        "Seconds that this pool alone would need for a model's waiting messages.", ("model",)
    ),
    "bridge_model_info": Gauge(
        "1 for the version that answered last.", ("model", "version"), "last"
    ),
    "bridge_build_info": Gauge("1; the label tells the version.", ("version",), "last"),
    "bridge_training_epoch": Gauge("Epoch of a training that runs.", ("model",), "last"),
    "bridge_training_step": Gauge("Step of a training that runs.", ("model",), "last"),
    "bridge_training_loss": Gauge("Loss of a training that runs.", ("model",), "last"),
    "bridge_training_samples_per_second": Gauge(
        "Rows that a training takes in a second.", ("model",), "last"
    ),
    "bridge_training_checkpoint_timestamp_seconds": Gauge(
        "Unix time of a running training's last checkpoint, or of its start if there is none.",
        ("model",),
        "last",
    ),
    "bridge_training_jobs": Gauge("Trainings by state.", ("state",), "last"),
    "bridge_redis_memory_bytes": Gauge("Bytes that Redis uses.", (), "last"),
    "bridge_redis_memory_limit_bytes": Gauge(
        "Bytes that Redis may use, its maxmemory; it refuses results beyond.", (), "last"
    ),
}
