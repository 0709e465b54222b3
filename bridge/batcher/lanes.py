"""What waits for a model, in which order it goes, and how much of it may be out. No I/O.

Enters: one caller's rows as an `Item`. Leaves: the next batch that may go. Must not know what
sends a batch, nor messages or queues.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from bridge.batcher.limit import Limit
from bridge.errors import BridgeError, InferenceTimeoutError
from bridge.specs import InferReply
from bridge.tensors import Tensor

Reply = asyncio.Future[InferReply]

# A request costs this process some 0.3 ms whatever its size. To wait as long as a fast model
# takes is cheaper than to send a few rows beside it.
_WORTH_WAITING_S = 0.005
SWEEP_AT = 256
"""So many messages come before it is seen who in line has gone; more, where more are in line."""
_OF_LATE = 1 / 64  # how far one message moves the mean of its model's

LaneKey = tuple[str, str, tuple[tuple[str, str, tuple[int, ...]], ...], bool]
"""Model, version, and name, datatype and shape of a row of each input; whether it goes alone."""


class Item:
    """One caller's rows, waiting or out."""

    __slots__ = ("deadline", "inputs", "mark", "reply", "rows", "since", "timer")

    def __init__(
        self, inputs: Mapping[str, Tensor], rows: int, deadline: float, reply: Reply
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.deadline = deadline
        self.since = time.perf_counter()
        self.reply = reply
        self.mark: Any = None
        """Of the caller's span, if it is traced."""
        self.timer = reply.get_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        self.fail(InferenceTimeoutError("Triton did not answer in time"))

    def finish(self, reply: InferReply) -> None:
        """These are the caller's rows; one who has gone is not told."""
        self.timer.cancel()
        if not self.reply.done():
            self.reply.set_result(reply)

    def fail(self, error: BridgeError) -> None:
        """The caller gets an error of the same kind."""
        self.timer.cancel()
        if not self.reply.done():
            # Its own instance: an exception that is raised twice gathers both tracebacks.
            self.reply.set_exception(type(error)(str(error)))


class Lane:
    """What waits for one model, version and row signature."""

    __slots__ = (
        *("alone", "delayed", "items", "key", "max_rows", "name", "queued", "rows", "version"),
    )

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.name, self.version, _, self.alone = key
        self.max_rows = 1
        self.items: deque[Item] = deque()
        self.rows = 0
        self.queued = False
        self.delayed = False
        """Waits for more rows until its model's delay is over."""

    def take(self) -> list[Item]:
        """The next batch, first come first served; those who have gone are dropped."""
        batch: list[Item] = []
        rows = 0
        while self.items:
            item = self.items[0]
            if item.reply.done():
                item.timer.cancel()
            elif batch and rows + item.rows > self.max_rows:
                break
            else:
                batch.append(item)
                rows += item.rows
            self.items.popleft()
            self.rows -= item.rows
        return batch

    def drop_gone(self) -> None:
        """Forget those who have gone."""
        items, self.items, self.rows = self.items, deque(), 0
        for item in items:
            if item.reply.done():
                item.timer.cancel()
            else:
                self.items.append(item)
                self.rows += item.rows


class Model:
    """One model's lanes in turn, and how many of its batches are out."""

    __slots__ = (
        *("alone_out", "came", "in_flight", "limit", "messages_in_batch", "sweep_at", "turns"),
        "used",
    )

    def __init__(self) -> None:
        self.limit = Limit()
        self.in_flight = 0
        self.alone_out = 0
        """Of those, how many hold rows that may kill the model: never more than one."""
        self.turns: deque[Lane] = deque()
        self.messages_in_batch = 1.0
        """How many messages of late, as they came, fill a batch."""
        self.used = 0.0
        """When it was last asked for, by the loop's clock."""
        self.came = 0
        """Messages since it was last seen who in line has gone."""
        self.sweep_at = SWEEP_AT

    def seen(self, lane: Lane, rows: int, now: float) -> None:
        """A message with so many rows has come."""
        full = max(1.0, lane.max_rows / rows) if rows else 1.0
        if not lane.alone:  # which says nothing about others
            share = _OF_LATE if self.used else 1.0
            self.messages_in_batch += (full - self.messages_in_batch) * share
        self.used = now

    @property
    def appetite(self) -> int:
        """Messages that keep the model busy: a batch gathers for each that may be out."""
        return math.ceil(2 * (self.limit.current + 1) * self.messages_in_batch)

    def next_lane(self) -> Lane | None:
        """Take the next lane of which a batch may go now out of its turn, if there is one."""
        for index, lane in enumerate(self.turns):
            if self._may_go(lane):
                del self.turns[index]
                return lane
        return None

    def _may_go(self, lane: Lane) -> bool:
        """Whether a batch of the lane may go now.

        A full batch gains nothing by waiting; it may even go one ahead of the limit, to keep the
        server busy while an answer travels. A partial one goes beside others only where these
        take long: else it waits for the first to return, and grows meanwhile.
        """
        if lane.alone and self.alone_out:
            return False
        if lane.rows >= lane.max_rows:
            return self.in_flight <= self.limit.current
        if lane.delayed:
            return False
        slow = self.limit.fastest_s > _WORTH_WAITING_S
        return self.in_flight == 0 or (slow and self.in_flight < self.limit.current)
