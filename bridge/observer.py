"""What happens, told to whoever watches. Here nobody does: every method is empty, and so cheap.

Enters: facts, from the rooms where they happen. Leaves: nothing. A subclass makes figures of them
(`bridge.metrics.counts`). What is told is raw: a stranger's message may hold any name. A method
must not raise, nor wait. Must not know what becomes of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from taskiq import TaskiqMessage

from bridge.errors import BridgeError, Outcome

Direction = Literal["in", "out"]
Load = Literal["loaded", "refused", "reloaded"]
Slice = Literal["finished", "continued", "failed", "cancelled", "paused"]


class Observer:
    """Hears all, and does nothing about it."""

    # ---- the intake

    def received(self, size: int) -> None:
        """A message came, of so many bytes; whether it is one is not known yet."""

    def redelivered(self, message: TaskiqMessage) -> None:
        """A message came that was delivered before."""

    def taken(self, message: TaskiqMessage, waited_s: float | None) -> None:
        """A task came to a worker for the first time; seconds since it was sent, if known."""

    def begun(self, message: TaskiqMessage) -> None:
        """A try of a task with a shortcut begins; `left` follows, whatever becomes of it."""

    def left(self, message: TaskiqMessage) -> None:
        """What was begun is out of our hands."""

    def ended(
        self, message: TaskiqMessage, value: Any, outcome: Outcome, took_s: float | None
    ) -> None:
        """A task has its record, and its message is acknowledged; None: it did not run."""

    def retried(self, message: TaskiqMessage, error: BridgeError) -> None:
        """A task comes back later."""

    def dead_lettered(self, error: BridgeError) -> None:
        """A message went to the dead letters."""

    def saved(self, size: int, took_s: float) -> None:
        """A result of so many bytes is in the store; seconds from asking until it was there."""

    # ---- the batcher: models that Triton knows

    def sent(self, model: str, rows: int, waited_s: Sequence[float]) -> None:
        """A request goes to Triton; for how many seconds each caller's rows were in line."""

    def answered(self, model: str, version: str | None, took_s: float) -> None:
        """A request has come back after so many seconds.

        `version` is that which answered a caller who named none; else None.
        """

    # ---- payloads, loading, training

    def stored(self, direction: Direction, size: int) -> None:
        """Bytes came from the payload store, or went there."""

    def loaded(self, name: str, load: Load) -> None:
        """Triton was asked to load a model, or a candidate to be one."""

    def progressed(self, model: str, record: Mapping[str, Any]) -> None:
        """A training has come so far: what `bridge.training.fit` reports."""

    def slice_ended(self, model: str, how: Slice) -> None:
        """A turn at a training is over."""


SILENT = Observer()
"""For where nobody watches."""
