"""How many requests may be in flight, learnt from their latency. Pure arithmetic.

TCP Vegas, as Netflix's concurrency-limits applies it to servers (L. Brakmo, L. Peterson: "TCP
Vegas: End to End Congestion Avoidance on a Global Internet", 1995): of `limit` requests in
flight, `limit * (1 - fastest / latency)` only stand in line at the server. Few in line: one more
may go. Many: one less. A refusal or time-out halves the limit.
"""

from dataclasses import dataclass

_FORGET_EVERY = 500
_ALPHA, _BETA = 1.0, 3.0


@dataclass(slots=True)
class Limit:
    """A limit that follows the server, between `least` and `most`."""

    least: int = 1
    most: int = 16
    current: int = 1
    fastest_s: float = float("inf")
    """The lowest latency of late, in seconds."""
    _seen: int = 0

    def succeeded(self, latency_s: float, in_flight: int) -> None:
        """Learn from an answer.

        Args:
            latency_s: from sending to the answer, in seconds.
            in_flight: requests that were out, this one included.
        """
        self._seen += 1
        if self._seen % _FORGET_EVERY == 0:  # a server that became slower, or a larger batch
            self.fastest_s = float("inf")
        self.fastest_s = min(self.fastest_s, latency_s)
        if in_flight < self.current:
            return  # the limit was not felt: nothing can be learnt about it
        in_line = self.current * (1 - self.fastest_s / latency_s)
        if in_line < _ALPHA:
            self.current = min(self.most, self.current + 1)
        elif in_line > _BETA:
            self.current = max(self.least, self.current - 1)

    def failed(self) -> None:
        """Learn from a refusal or a time-out."""
        self.current = max(self.least, self.current // 2)
