"""How long what waits will take, from what was seen of late. Pure arithmetic.

The queue says how many messages wait, not for which models. They are shared out as recent arrivals
were, and a message takes what those of its model took while the worker had any of them in hand:
with batches, and with whatever else it did beside them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_MESSAGES = 500.0  # after so many further messages an arrival counts half,
_ARRIVALS_S = 60.0  # and after so many seconds; not while nothing comes
_BUSY_S = 10.0  # after so many further busy seconds a served message counts half


@dataclass(slots=True)
class _Served:
    """One model's messages in one process."""

    in_hand: int = 0
    since: float = 0.0
    busy_s: float = 0.0
    ended: int = 0
    arrived: int = 0
    """These three since the last sample."""
    weight: float = 0.0
    seconds: float = 0.0
    messages: float = 0.0
    """These three over all samples, the older ones for less."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What one process has seen of a model."""

    weight: float
    """Arrivals."""
    seconds: float
    """With messages of the model in hand."""
    messages: float
    """That came to their end in these seconds."""


class Work:
    """What one process has in hand, by model; times are of one monotonic clock."""

    def __init__(self, now: float) -> None:
        self._models: dict[str, _Served] = {}
        self._arrived = now

    def begin(self, model: str, now: float) -> None:
        """A message has come."""
        served = self._models.get(model)
        if served is None:
            served = self._models[model] = _Served()
        if not served.in_hand:
            served.since = now
        served.in_hand += 1
        served.arrived += 1

    def end(self, model: str) -> None:
        """A message that is in hand has come to its end; `leave` follows."""
        self._models[model].ended += 1

    def leave(self, model: str, now: float) -> None:
        """A message is in hand no more: it has ended, or comes back."""
        served = self._models[model]
        served.in_hand -= 1
        if not served.in_hand:
            served.busy_s += now - served.since

    def sample(self, now: float) -> dict[str, Pace]:
        """What is to be said of each model now."""
        arrived = sum(served.arrived for served in self._models.values())
        fade = 1.0
        if arrived:
            since_s = min(now - self._arrived, _ARRIVALS_S)
            fade = 0.5 ** (arrived / _MESSAGES + since_s / _ARRIVALS_S)
            self._arrived = now
        for served in self._models.values():
            served.weight = served.weight * fade + served.arrived
            if served.in_hand:
                served.busy_s += now - served.since
                served.since = now
            if served.busy_s or served.ended:
                kept = 0.5 ** (served.busy_s / _BUSY_S)
                served.seconds = served.seconds * kept + served.busy_s
                served.messages = served.messages * kept + served.ended
            served.arrived, served.ended, served.busy_s = 0, 0, 0.0
        return {
            name: Pace(served.weight, served.seconds, served.messages)
            for name, served in self._models.items()
        }


@dataclass(slots=True)
class _Pool:
    weight: float = 0.0
    per_second: float = 0.0


def backlog(waiting: float, processes: Iterable[Mapping[str, Pace]]) -> dict[str, float]:
    """Seconds of a pool's work that wait, by model.

    Args:
        waiting: messages in the queue.
        processes: what each process of the pool has seen.

    Returns:
        Nothing of models of which no message has ever ended.
    """
    models: dict[str, _Pool] = {}
    for process in processes:
        for name, pace in process.items():
            pool = models.setdefault(name, _Pool())
            pool.weight += pace.weight
            if pace.messages > 0 and pace.seconds > 0:
                pool.per_second += pace.messages / pace.seconds
    all_weights = sum(pool.weight for pool in models.values())
    return {
        name: waiting * pool.weight / all_weights / pool.per_second
        for name, pool in models.items()
        if pool.per_second > 0 and all_weights > 0
    }
