"""Adds up in memory what goes into the process's files a few times a second.

A file's counter takes a microsecond for each addition, a histogram four, and a message makes ten of
them: they would be a tenth of a worker's work.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Any


class Tally:
    """Of one process. One that is killed takes along what was not written yet."""

    def __init__(self) -> None:
        self._added: dict[Any, float] = defaultdict(float)
        self._observed: dict[Any, list[float]] = defaultdict(list)

    def add(self, counter: Any, amount: float = 1.0) -> None:
        """Have a Prometheus counter grow."""
        self._added[counter] += amount

    def observe(self, histogram: Any, value: float) -> None:
        """Have a Prometheus histogram count a value."""
        self._observed[histogram].append(value)

    def write(self) -> None:
        """Bring all of it into the files."""
        added, self._added = self._added, defaultdict(float)
        for counter, amount in added.items():
            counter.inc(amount)
        observed, self._observed = self._observed, defaultdict(list)
        for histogram, values in observed.items():
            _observe_all(histogram, values)


def _observe_all(histogram: Any, values: list[float]) -> None:
    """As `Histogram.observe` for each; the library has no way to say it once."""
    bounds = histogram._upper_bounds  # noqa: SLF001 - the last one is infinity
    for bucket, count in Counter(bisect_left(bounds, value) for value in values).items():
        histogram._buckets[bucket].inc(count)  # noqa: SLF001
    histogram._sum.inc(sum(values))  # noqa: SLF001
