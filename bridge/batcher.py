"""Gather many callers' rows into one request, and scatter the answer. Pure asyncio, no I/O.

Enters: one caller's checked tensors. Leaves: a future with exactly that caller's rows, or its own
error. What sends a batch is handed in. Must not know messages, queues or gRPC.

Nothing waits while there is room in flight: a batch is what gathered during one turn of the event
loop, or while earlier batches were out. Row-major tensors are joined and cut as bytes.
"""

import asyncio
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

    __slots__ = ("in_flight", "items", "key", "max_rows", "name", "queued", "version")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.name, self.version, _ = key
        self.max_rows = 1
        self.items: deque[_Item] = deque()
        self.in_flight = 0
        self.queued = False

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
        return batch


class Batcher:
    """Batches across callers, fairly between models, within a limit of requests in flight."""

    def __init__(self, send: Send, limit: Limit) -> None:
        """Nothing runs before the first `submit`.

        Args:
            send: sends one batch.
            limit: how many batches may be out at a time, over all models.
        """
        self._send = send
        self._limit = limit
        self._lanes: dict[LaneKey, _Lane] = {}
        self._turns: deque[_Lane] = deque()
        self._in_flight = 0
        self._pump_scheduled = False
        self._batches: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Batches that are out."""
        return self._in_flight

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
        if not lane.queued:
            lane.queued = True
            self._turns.append(lane)
        if not self._pump_scheduled:
            self._pump_scheduled = True
            loop.call_soon(self._pump)
        return item.reply

    async def drain(self) -> None:
        """Wait until nothing is waiting or out."""
        while self._batches or self._turns:
            await asyncio.sleep(0)
            if self._batches:
                await asyncio.wait(self._batches)

    def _pump(self) -> None:
        """Send batches while there is room, one for each lane in turn."""
        self._pump_scheduled = False
        skipped: list[_Lane] = []
        while self._turns and self._in_flight < self._limit.current:
            lane = self._turns.popleft()
            if lane.in_flight and lane.in_flight >= self._limit.current - 1:
                skipped.append(lane)  # the last place in flight is for somebody else
                continue
            batch = lane.take()
            if batch:
                lane.in_flight += 1
                self._in_flight += 1
                task = asyncio.create_task(self._run(lane, batch))
                self._batches.add(task)
                task.add_done_callback(self._batches.discard)
            if lane.items:
                self._turns.append(lane)
            else:
                lane.queued = False
                self._drop_if_idle(lane)
        self._turns.extendleft(reversed(skipped))

    async def _run(self, lane: _Lane, batch: list[_Item]) -> None:
        try:
            await self._deliver(lane, batch)
        finally:
            lane.in_flight -= 1
            self._in_flight -= 1
            self._drop_if_idle(lane)
            self._pump()

    async def _deliver(self, lane: _Lane, batch: Sequence[_Item]) -> None:
        """Send one batch; if its content is refused, halve it until the guilty one is alone."""
        loop = asyncio.get_running_loop()
        batch = [item for item in batch if not item.reply.done()]
        if not batch:
            return
        timeout_s = max(item.deadline for item in batch) - loop.time()
        inputs = _joined(batch)
        started = loop.time()
        try:
            reply = await self._send(
                lane.name, inputs, version=lane.version, timeout_s=max(timeout_s, 0.001)
            )
            answers = _scattered(reply, [item.rows for item in batch])
        except (TritonRefusedError, InferenceFailedError, ShapeError) as error:
            if len(batch) == 1:
                batch[0].fail(error)
                return
            half = len(batch) // 2
            await self._deliver(lane, batch[:half])
            await self._deliver(lane, batch[half:])
        except BridgeError as error:
            self._limit.failed()
            for item in batch:
                item.fail(error)
        except BaseException:
            for item in batch:
                item.fail(InferenceFailedError("the worker was stopped"))
            raise
        else:
            self._limit.succeeded(loop.time() - started, self._in_flight)
            for item, answer in zip(batch, answers, strict=True):
                item.finish(answer)

    def _drop_if_idle(self, lane: _Lane) -> None:
        """Forget a lane that nothing uses: shapes come from callers and would pile up."""
        if not lane.queued and not lane.in_flight:
            self._lanes.pop(lane.key, None)


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
