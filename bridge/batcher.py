"""Gather many callers' rows into one request, and scatter the answer. Pure asyncio, no I/O.

Enters: one caller's checked tensors. Leaves: a future with exactly that caller's rows, or its own
error. What sends a batch is handed in. Must not know messages, queues or gRPC.

Nothing waits while its model is idle: a batch is what gathered during one turn of the event loop,
or while earlier batches were out. How many may be out is learnt for each model by itself, so that
a flood for one does not hold up another. Row-major tensors are joined and cut as bytes.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

from bridge.errors import (
    BridgeError,
    InferenceFailedError,
    InferenceTimeoutError,
    ShapeError,
    TritonRefusedError,
)
from bridge.limit import Limit
from bridge.tensors import Tensor, join_rows, split_rows
from bridge.triton_client import InferReply, ModelSpec

Reply = asyncio.Future[InferReply]
logger = logging.getLogger("bridge.batcher")

_REMEMBERED = 1024  # models whose limits are kept
# A request costs this process some 0.3 ms whatever its size. To wait as long as a fast model
# takes is cheaper than to send a few rows beside it.
_WORTH_WAITING_S = 0.005
_EMPTY_TURNS = 2
_GATHER_TURNS = 24

LaneKey = tuple[str, str, tuple[tuple[str, str, tuple[int, ...]], ...]]


class Send(Protocol):
    """Sends one batch; `TritonClient.infer` is one."""

    def __call__(
        self, name: str, inputs: Mapping[str, Tensor], *, version: str, timeout_s: float
    ) -> Awaitable[InferReply]:
        """Run one request within `timeout_s` seconds."""
        ...


class _Item:
    """One caller's rows, waiting or out."""

    __slots__ = ("deadline", "inputs", "reply", "rows", "timer")

    def __init__(
        self, inputs: Mapping[str, Tensor], rows: int, deadline: float, reply: Reply
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.deadline = deadline
        self.reply = reply
        self.timer = reply.get_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        self.fail(InferenceTimeoutError("the deadline passed before Triton answered"))

    def finish(self, reply: InferReply) -> None:
        self.timer.cancel()
        if not self.reply.done():
            self.reply.set_result(reply)

    def fail(self, error: BridgeError) -> None:
        self.timer.cancel()
        if not self.reply.done():
            # Its own instance: an exception that is raised twice gathers both tracebacks.
            self.reply.set_exception(type(error)(str(error)))


class _Lane:
    """What waits for one model, version and row signature."""

    __slots__ = ("delayed", "items", "key", "max_rows", "name", "queued", "rows", "version")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.name, self.version, _ = key
        self.max_rows = 1
        self.items: deque[_Item] = deque()
        self.rows = 0
        self.queued = False
        self.delayed = False
        """Waits for more rows until its model's delay is over."""

    def take(self) -> list[_Item]:
        """The next batch, first come first served; those who have gone are dropped."""
        batch: list[_Item] = []
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


class _Model:
    """One model's lanes in turn, and how many of its batches are out."""

    __slots__ = ("in_flight", "limit", "turns")

    def __init__(self) -> None:
        self.limit = Limit()
        self.in_flight = 0
        self.turns: deque[_Lane] = deque()

    def next_lane(self) -> _Lane | None:
        """Take the next lane of which a batch may go now out of its turn, if there is one."""
        for index, lane in enumerate(self.turns):
            if self._may_go(lane):
                del self.turns[index]
                return lane
        return None

    def _may_go(self, lane: _Lane) -> bool:
        """Whether a batch of the lane may go now.

        A full batch gains nothing by waiting; it may even go one ahead of the limit, to keep the
        server busy while an answer travels. A partial one goes beside others only where these
        take long: else it waits for the first to return, and grows meanwhile.
        """
        if lane.rows >= lane.max_rows:
            return self.in_flight <= self.limit.current
        if lane.delayed:
            return False
        slow = self.limit.fastest_s > _WORTH_WAITING_S
        return self.in_flight == 0 or (slow and self.in_flight < self.limit.current)


class Batcher:
    """Batches across callers, for each model by itself."""

    def __init__(self, send: Send, delays_us: Mapping[str, int] | None = None) -> None:
        """Nothing runs before the first `submit`.

        Args:
            send: sends one batch.
            delays_us: for how many microseconds at most the first rows of a batch may wait for
                more, by model; by default for none.
        """
        self._send = send
        self._delays_us = delays_us or {}
        self._lanes: dict[LaneKey, _Lane] = {}
        self._models: dict[str, _Model] = {}
        self._to_pump: set[str] = set()
        self._submitted = 0
        self._batches: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Batches that are out."""
        return len(self._batches)

    def submit(
        self,
        spec: ModelSpec,
        inputs: Mapping[str, Tensor],
        *,
        version: str = "",
        timeout_s: float,
    ) -> Reply:
        """Put one caller's rows in line.

        Args:
            spec: of the model that `inputs` were checked against.
            inputs: tensors by name, with the same number of rows.
            version: a served version; "" for the newest.
            timeout_s: after so many seconds the future fails, wherever the rows then are.

        Returns:
            A future with outputs of just these rows. Cancelling it takes the rows out of the line.
        """
        loop = asyncio.get_running_loop()
        batched = spec.max_batch_size > 0
        signature = tuple(
            (name, tensor.datatype, tensor.shape[batched:]) for name, tensor in inputs.items()
        )
        key = (spec.name, version, signature)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(key)
        # 0: no batch dimension, and a sequence's requests must not be mixed: one by one.
        lane.max_rows = spec.max_batch_size if spec.mixable else 0
        rows = next(iter(inputs.values())).shape[0] if batched and inputs else 1
        item = _Item(inputs, rows, loop.time() + timeout_s, loop.create_future())
        lane.items.append(item)
        lane.rows += rows
        if not lane.queued:
            lane.queued = True
            self._model(spec.name).turns.append(lane)
            if delay_us := self._delays_us.get(spec.name, 0):
                lane.delayed = True
                loop.call_later(delay_us / 1e6, self._end_delay, lane)
        self._submitted += 1
        if lane.rows >= lane.max_rows:
            self._pump(self._model(spec.name))
        else:
            self._pump_soon(spec.name)
        return item.reply

    async def drain(self) -> None:
        """Wait until nothing is waiting or out."""
        while self._batches or self._lanes:
            await asyncio.sleep(0)
            if self._batches:
                await asyncio.wait(self._batches)

    def _model(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            if len(self._models) >= _REMEMBERED:
                idle = [key for key, old in self._models.items() if not old.in_flight]
                for key in idle:
                    if not self._models[key].turns:
                        del self._models[key]
            model = self._models[name] = _Model()
        return model

    def _end_delay(self, lane: _Lane) -> None:
        lane.delayed = False
        if lane.queued:
            self._pump(self._model(lane.name))

    def _pump_soon(self, name: str) -> None:
        if not self._to_pump:
            asyncio.get_running_loop().call_soon(self._pump_all, -1, 0, _GATHER_TURNS)
        self._to_pump.add(name)

    def _pump_all(self, seen: int, empty: int, turns: int) -> None:
        """Send what gathered, once two turns of the event loop brought nothing more.

        One is not enough: a turn may have gone to answers while the next messages were read.
        """
        empty = empty + 1 if self._submitted == seen else 0
        if empty < _EMPTY_TURNS and turns:
            asyncio.get_running_loop().call_soon(self._pump_all, self._submitted, empty, turns - 1)
            return
        names, self._to_pump = self._to_pump, set()
        for name in names:
            self._pump(self._model(name))

    def _pump(self, model: _Model) -> None:
        """Send batches of one model while there is room, one of each lane in turn."""
        while (lane := model.next_lane()) is not None:
            batch = lane.take()
            if lane.items:
                model.turns.append(lane)
            else:
                # Forgotten when nothing waits: shapes come from callers and would pile up.
                lane.queued = False
                del self._lanes[lane.key]
            if batch:
                model.in_flight += 1
                task = asyncio.create_task(self._run(model, lane, batch))
                self._batches.add(task)
                task.add_done_callback(self._batches.discard)

    async def _run(self, model: _Model, lane: _Lane, batch: list[_Item]) -> None:
        # Not the loop's clock: uvloop's stands still during a turn and counts milliseconds.
        started, out = time.perf_counter(), model.in_flight
        try:
            if await self._deliver(lane, batch):
                model.limit.succeeded(time.perf_counter() - started, out)
            else:
                model.limit.failed()
        finally:
            model.in_flight -= 1
            if model.turns:
                self._pump_soon(lane.name)

    async def _deliver(self, lane: _Lane, batch: Sequence[_Item]) -> bool:
        """Send one batch; if its content is refused, halve it until the guilty one is alone.

        Returns:
            False if Triton was away or too slow, which is nobody's content.
        """
        batch = [item for item in batch if not item.reply.done()]
        if not batch:
            return True
        timeout_s = max(item.deadline for item in batch) - asyncio.get_running_loop().time()
        try:
            reply = await self._send(
                lane.name, _joined(batch), version=lane.version, timeout_s=max(timeout_s, 0.001)
            )
            answers = _scattered(reply, [item.rows for item in batch])
        except (TritonRefusedError, InferenceFailedError, ShapeError) as error:
            if len(batch) == 1:
                batch[0].fail(error)
                return True
            half = len(batch) // 2
            first = await self._deliver(lane, batch[:half])
            return await self._deliver(lane, batch[half:]) and first
        except BridgeError as error:
            for item in batch:
                item.fail(error)
            return False
        except Exception as error:
            logger.exception("a batch for %s failed unexpectedly", lane.name)
            for item in batch:
                item.fail(InferenceFailedError(f"the batch failed: {error!r}"))
            return False
        for item, answer in zip(batch, answers, strict=True):
            item.finish(answer)
        return True


def _joined(batch: Sequence[_Item]) -> Mapping[str, Tensor]:
    if len(batch) == 1:
        return batch[0].inputs
    return {name: join_rows([item.inputs[name] for item in batch]) for name in batch[0].inputs}


def _scattered(reply: InferReply, rows: Sequence[int]) -> list[InferReply]:
    if len(rows) == 1:
        return [reply]
    cut = {name: split_rows(tensor, rows) for name, tensor in reply.outputs.items()}
    return [
        InferReply(
            reply.model_name,
            reply.model_version,
            {name: parts[i] for name, parts in cut.items()},
        )
        for i in range(len(rows))
    ]
