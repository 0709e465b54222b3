"""Makes figures of what happens. One for a process, on its event loop.

Enters: what `Observer` hears. Leaves: counters and histograms in the process's files; and how
things stand, for its gauges. Each message costs some ten additions: what they add to is looked up
once, and kept, and what is usual reaches the files together.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from taskiq import TaskiqMessage

from bridge.errors import (
    BridgeError,
    MalformedMessageError,
    MessageTooLargeError,
    ModelUnavailableError,
    Outcome,
    PoisonousMessageError,
    UnknownTaskError,
)
from bridge.metrics import series
from bridge.metrics.backlog import Pace, Work
from bridge.metrics.labels import Labels
from bridge.metrics.tally import Tally
from bridge.names import CANDIDATE
from bridge.observer import Direction, Load, Observer, Slice

Standing = tuple[str, tuple[str, ...], float]
"""A gauge's name, the values of its labels, and its own."""

_AWAY_S = 120.0  # longer than the longest wait for another try, by default
# So that the first of a kind is an increase: from 0 to 1, not from nothing.
_LETTERS = (MalformedMessageError, MessageTooLargeError, PoisonousMessageError, UnknownTaskError)

_task_seconds = cache(series.TASK_SECONDS.labels)
_queue_seconds = cache(series.QUEUE_SECONDS.labels)
_batch_wait_seconds = cache(series.BATCH_WAIT_SECONDS.labels)
_batch_rows = cache(series.BATCH_ROWS.labels)
_triton_seconds = cache(series.TRITON_SECONDS.labels)
_payload_bytes = cache(series.PAYLOAD_BYTES.labels)


@cache
def _tasks(task: str, model: str, version: str) -> dict[Outcome, Any]:
    """Of each outcome, from 0 on."""
    return {it: series.TASKS.labels(task, model, version, it.value) for it in Outcome}


class Counts(Observer):
    """Hears what happens in this process."""

    def __init__(self, labels: Labels) -> None:
        """Nothing is counted yet; `labels` says what it may be called."""
        self._labels = labels
        self._tally = Tally()
        self._work = Work(time.monotonic())
        self._models: dict[str, list[str]] = {}
        self._away: dict[str, float] = {}
        self._answered: dict[str, tuple[str, float]] = {}
        self._trainings: dict[str, dict[str, float]] = {}
        for error in _LETTERS:
            series.DEAD_LETTERS.labels(error.__name__)

    def received(self, size: int) -> None:
        """See `Observer`."""
        self._tally.add(_payload_bytes("in", "message"), size)

    def redelivered(self, message: TaskiqMessage) -> None:
        """See `Observer`."""
        series.REDELIVERED.labels(self._labels.task(message.task_name)).inc()

    def taken(self, message: TaskiqMessage, waited_s: float | None) -> None:
        """See `Observer`."""
        if waited_s is not None:
            self._tally.observe(_queue_seconds(self._labels.task(message.task_name)), waited_s)

    def begun(self, message: TaskiqMessage) -> None:
        """See `Observer`."""
        model = self._labels.model_of(message)
        # Remembered: by the time that it leaves, the model may be known.
        self._models.setdefault(message.task_id, []).append(model)
        self._work.begin(model, time.monotonic())

    def left(self, message: TaskiqMessage) -> None:
        """See `Observer`."""
        models = self._models[message.task_id]
        self._work.leave(models.pop(), time.monotonic())
        if not models:
            del self._models[message.task_id]

    def ended(
        self, message: TaskiqMessage, value: Any, outcome: Outcome, took_s: float | None
    ) -> None:
        """See `Observer`."""
        if begun := self._models.get(message.task_id):
            self._work.end(begun[-1])
        task = self._labels.task(message.task_name)
        counter = _tasks(task, *self._labels.subject(message, value))[outcome]
        if outcome is Outcome.SUCCEEDED:
            self._tally.add(counter)
        else:  # what is wrong must be known, though it kills the process the next moment
            counter.inc()
        if took_s is not None:
            self._tally.observe(_task_seconds(task), took_s)

    def retried(self, message: TaskiqMessage, error: BridgeError) -> None:
        """See `Observer`."""
        task, model = self._labels.task(message.task_name), self._labels.model_of(message)
        series.RETRIES.labels(task, model, type(error).__name__).inc()
        if isinstance(error, ModelUnavailableError):
            self._away[model] = time.time()

    def dead_lettered(self, error: BridgeError) -> None:
        """See `Observer`."""
        series.DEAD_LETTERS.labels(type(error).__name__).inc()

    def saved(self, size: int, took_s: float) -> None:
        """See `Observer`."""
        self._tally.add(_payload_bytes("out", "message"), size)
        self._tally.observe(series.SAVE_SECONDS, took_s)

    def sent(self, model: str, rows: int, waited_s: Sequence[float]) -> None:
        """See `Observer`."""
        label = self._labels.add(model)
        self._tally.observe(_batch_rows(label), rows)
        waits = _batch_wait_seconds(label)
        for wait_s in waited_s:
            self._tally.observe(waits, wait_s)

    def answered(self, model: str, version: str | None, took_s: float) -> None:
        """See `Observer`."""
        label = self._labels.add(model)
        self._tally.observe(_triton_seconds(label), took_s)
        if version is not None:
            self._labels.serving[label] = version
            self._answered[label] = self._labels.version(label, version), time.time()

    def stored(self, direction: Direction, size: int) -> None:
        """See `Observer`."""
        self._tally.add(_payload_bytes(direction, "store"), size)

    def loaded(self, name: str, load: Load) -> None:
        """See `Observer`."""
        model, candidate, _ = name.partition(CANDIDATE)
        if not candidate or load == "refused":  # one that loads is not live yet
            series.MODEL_LOADS.labels(self._labels.model(model), load).inc()

    def progressed(self, model: str, record: Mapping[str, Any]) -> None:
        """See `Observer`. A model that is trained for the first time is none of Triton's yet."""
        standing = self._trainings.setdefault(self._labels.add(model), {"began": time.time()})
        for key in ("epoch", "step", "loss", "samples_per_s"):
            if isinstance(record.get(key), int | float):
                standing[key] = float(record[key])
        checkpoint = record.get("checkpoint")
        if checkpoint:
            standing["saved_at"] = float(checkpoint["saved_at"])

    def slice_ended(self, model: str, how: Slice) -> None:
        """See `Observer`. As above: one that failed before its first report is known too."""
        label = self._labels.add(model)
        self._trainings.pop(label, None)
        series.SLICES.labels(label, how).inc()

    def write(self) -> None:
        """Bring what was heard into the process's files."""
        self._tally.write()

    def work(self) -> dict[str, Pace]:
        """What was in hand since the last call, and before."""
        return self._work.sample(time.monotonic())

    def served(self) -> dict[str, tuple[str, float]]:
        """By model: the version that last answered, and when, in Unix time."""
        return self._answered

    def away(self) -> dict[str, float]:
        """By model: when it was last found away, in Unix time, unless that is long ago."""
        since = time.time() - _AWAY_S
        self._away = {model: at for model, at in self._away.items() if at > since}
        return self._away

    def standing(self) -> Iterator[Standing]:
        """The gauges of what was heard."""
        for model, at in self._trainings.items():
            for key, name in (
                ("epoch", "bridge_training_epoch"),
                ("step", "bridge_training_step"),
                ("loss", "bridge_training_loss"),
                ("samples_per_s", "bridge_training_samples_per_second"),
            ):
                if key in at:
                    yield name, (model,), at[key]
            saved_at = at.get("saved_at", at["began"])
            yield "bridge_training_checkpoint_timestamp_seconds", (model,), saved_at
