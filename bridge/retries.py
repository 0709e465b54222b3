"""Whether a task that met an error is tried again, and when. Pure arithmetic.

Exponential back-off with full jitter, as M. Brooker describes it ("Exponential Backoff And
Jitter", AWS Architecture Blog, 2015): the n-th wait is anything between nothing and twice the
longest of the one before.
"""

import random
from dataclasses import dataclass

from bridge.errors import (
    AwaitingTurnError,
    BackendCrashedError,
    BridgeError,
    Fate,
    ModelUnavailableError,
)

# A model that is away is no fault of the task: it is tried much more often, and soon after the
# model is back.
_WHILE_AWAY = 60
_WHILE_AWAY_S = 8.0
# Turns are short and follow each other: who came back late would leave some unused.
_FOR_A_TURN = 240
_FOR_A_TURN_S = 2.0
# A task that comes back after a crash is the only suspect, though new tasks may be there: if the
# model dies three times more, it is the task that kills it.
_CRASHES = 3


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
            attempt: how many tries met an error of the kind, at least 1.
            left_s: seconds until the task's deadline.
            most: tries after the first.
            jitter: from 0 to 1; by default by chance.
        """
        most, longest_s = self._bounds(error, most)
        if attempt > most:
            return None
        wait_s = self._ceiling_s(attempt, longest_s)
        wait_s *= random.random() if jitter is None else jitter  # noqa: S311
        return wait_s if wait_s < left_s else None

    def _bounds(self, error: BridgeError, most: int) -> tuple[int, float]:
        """Tries after the first, and the longest wait before one."""
        if error.fate is not Fate.RETRY:
            return 0, 0.0
        if isinstance(error, AwaitingTurnError):
            return most * _FOR_A_TURN, min(self.longest_s, _FOR_A_TURN_S)
        if isinstance(error, ModelUnavailableError):
            return most * _WHILE_AWAY, min(self.longest_s, _WHILE_AWAY_S)
        crashed = isinstance(error, BackendCrashedError)
        return min(most, _CRASHES) if crashed else most, self.longest_s

    def _ceiling_s(self, attempt: int, longest_s: float) -> float:
        return min(longest_s, self.first_s * 2.0 ** min(attempt - 1, 32))
