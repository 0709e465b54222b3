"""Whether a task that met an error is tried again, and when. Pure arithmetic.

Exponential back-off with full jitter, as M. Brooker describes it ("Exponential Backoff And
Jitter", AWS Architecture Blog, 2015): the n-th wait is anything between nothing and twice the
longest of the one before.
"""

import random
from dataclasses import dataclass

from bridge.errors import BridgeError, Fate, ModelUnavailableError

_WHILE_AWAY = 12
"""So many times as often a task is tried whose model is away: that is no fault of the task."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How long is waited between tries."""

    first_s: float = 1.0
    """The longest wait before the first of them."""
    longest_s: float = 60.0
    """The longest wait before any of them."""

    def wait_s(
        self,
        error: BridgeError,
        attempt: int,
        left_s: float,
        *,
        most: int,
        jitter: float | None = None,
    ) -> float | None:
        """Seconds until the next try; None: there is none.

        Args:
            error: what the last try met.
            attempt: how many tries there were, at least 1.
            left_s: seconds until the task's deadline.
            most: tries after the first.
            jitter: from 0 to 1; by default by chance.
        """
        if isinstance(error, ModelUnavailableError):
            most *= _WHILE_AWAY
        if error.fate is not Fate.RETRY or attempt > most:
            return None
        ceiling = min(self.longest_s, self.first_s * 2.0 ** min(attempt - 1, 32))
        wait_s = ceiling * (random.random() if jitter is None else jitter)  # noqa: S311
        return wait_s if wait_s < left_s else None
