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
from collections.abc import Awaitable, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Protocol

from bridge.batcher.lanes import SWEEP_AT, Item, Lane, LaneKey, Model, Reply
from bridge.errors import (
    BackendCrashedError,
    BridgeError,
    InferenceFailedError,
    ShapeError,
    TritonRefusedError,
)
from bridge.observer import SILENT, Observer
from bridge.specs import InferReply, ModelSpec
from bridge.tensors import Tensor, join_rows, split_rows
from bridge.tracing import tracer

logger = logging.getLogger("bridge.batcher")

_REMEMBERED = 1024  # models whose limits are kept
_IN_USE_S = 10.0  # how long after its last message a model counts as in use
_EMPTY_TURNS = 2
_GATHER_TURNS = 24


class Send(Protocol):
    """Sends one batch; `TritonClient.infer` is one."""

    def __call__(
        self, name: str, inputs: Mapping[str, Tensor], *, version: str, timeout_s: float
    ) -> Awaitable[InferReply]:
        """Run one request within `timeout_s` seconds."""
        ...


class Batcher:
    """Batches across callers, for each model by itself."""

    def __init__(self, send: Send, delays_us: Mapping[str, int] | None = None) -> None:
        """Nothing runs before the first `submit`.

        Args:
            send: sends one batch.
            delays_us: for how many microseconds at most the first rows of a batch may wait for
                more, by model; by default for none.
        """
        self.observer: Observer = SILENT
        self._send = send
        self._delays_us = delays_us or {}
        self._lanes: dict[LaneKey, Lane] = {}
        self._models: dict[str, Model] = {}
        self._to_pump: set[str] = set()
        self._submitted = 0
        self._batches: dict[asyncio.Task[None], list[Item]] = {}

    def loads(self) -> dict[str, tuple[int, int]]:
        """Of each model: batches that are out, and how many may be."""
        return {name: (it.in_flight, it.limit.current) for name, it in self._models.items()}

    def appetite(self) -> int:
        """How many messages in hand keep every model busy that is in use; 0: none is.

        More would only wait here, where no other worker can take them. Follows each model's
        limit, and so its latency.
        """
        since = asyncio.get_running_loop().time() - _IN_USE_S
        models = self._models.values()
        return sum(m.appetite for m in models if m.used > since or m.in_flight or m.turns)

    def submit(
        self,
        spec: ModelSpec,
        inputs: Mapping[str, Tensor],
        *,
        version: str = "",
        timeout_s: float,
        alone: bool = False,
    ) -> Reply:
        """Put one caller's rows in line.

        Args:
            spec: of the model that `inputs` were checked against.
            inputs: tensors by name, with the same number of rows.
            version: a served version; "" for the newest.
            timeout_s: after so many seconds the future fails, wherever the rows then are.
            alone: send these rows without anybody else's, and no others of the kind meanwhile.

        Returns:
            A future with outputs of just these rows. Cancelling it takes the rows out of the line.
        """
        loop = asyncio.get_running_loop()
        batched = spec.max_batch_size > 0
        signature = tuple(
            (name, tensor.datatype, tensor.shape[batched:]) for name, tensor in inputs.items()
        )
        key = (spec.name, version, signature, alone)
        model = self._model(spec.name)
        model.came += 1
        if model.came > model.sweep_at:
            self._drop_gone(model)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        # 0: no batch dimension, and a sequence's requests must not be mixed: one by one.
        lane.max_rows = spec.max_batch_size if spec.mixable and not alone else 0
        rows = next(iter(inputs.values())).shape[0] if batched and inputs else 1
        item = Item(inputs, rows, loop.time() + timeout_s, loop.create_future())
        item.mark = tracer().here()
        lane.items.append(item)
        lane.rows += rows
        model.seen(lane, rows, loop.time())
        if not lane.queued:
            lane.queued = True
            model.turns.append(lane)
            if delay_us := self._delays_us.get(spec.name, 0):
                lane.delayed = True
                loop.call_later(delay_us / 1e6, self._end_delay, lane)
        self._submitted += 1
        if lane.rows >= lane.max_rows:
            self._pump(model)
        else:
            self._pump_soon(spec.name)
        return item.reply

    def drop_abandoned(self) -> None:
        """Take batches back from Triton of which nobody waits for a row any more."""
        for task, batch in self._batches.items():
            if all(item.reply.done() for item in batch):
                task.cancel()

    def _model(self, name: str) -> Model:
        model = self._models.get(name)
        if model is None:
            if len(self._models) >= _REMEMBERED:
                idle = [key for key, old in self._models.items() if not old.in_flight]
                for key in idle:
                    if not self._models[key].turns:
                        del self._models[key]
            model = self._models[name] = Model()
        return model

    def _drop_gone(self, model: Model) -> None:
        """Forget those in line who have gone: where nothing comes back they would pile up."""
        lanes = list(model.turns)
        model.turns.clear()
        for lane in lanes:
            lane.drop_gone()
            if lane.items:
                model.turns.append(lane)
            else:
                lane.queued = False
                del self._lanes[lane.key]
        model.came = 0
        model.sweep_at = max(SWEEP_AT, sum(len(lane.items) for lane in model.turns))

    def _end_delay(self, lane: Lane) -> None:
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

    def _pump(self, model: Model) -> None:
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
                model.alone_out += lane.alone
                # Nobody's context: it runs the rows of many.
                task = asyncio.create_task(self._run(model, lane, batch), context=Context())
                self._batches[task] = batch
                # Also of one that is cancelled before it begins.
                task.add_done_callback(partial(self._back, model, lane))

    def _back(self, model: Model, lane: Lane, task: asyncio.Task[None]) -> None:
        """A batch is not out any more."""
        del self._batches[task]
        model.in_flight -= 1
        model.alone_out -= lane.alone
        if model.turns:
            self._pump_soon(lane.name)

    async def _run(self, model: Model, lane: Lane, batch: list[Item]) -> None:
        # Not the loop's clock: uvloop's stands still during a turn and counts milliseconds.
        started, out = time.perf_counter(), model.in_flight
        answered = await self._deliver(lane, batch)
        if answered:
            model.limit.succeeded(time.perf_counter() - started, out)
        elif answered is False:
            model.limit.failed()

    async def _deliver(self, lane: Lane, batch: Sequence[Item]) -> bool | None:
        """Send one batch; if its content is refused, halve it until the guilty one is alone.

        Returns:
            True if it was answered; False if Triton was away or too slow; None if neither says how
            long the model takes: nobody waits any more, or it was refused for its content.
        """
        batch = [item for item in batch if not item.reply.done()]
        if not batch:
            return None
        try:
            answers = await self._answers(lane, batch)
        except BridgeError as error:
            if _of_its_content(error) and len(batch) > 1:
                return await self._halved(lane, batch)
            for item in batch:
                item.fail(error)
            return None if _of_its_content(error) else False
        except Exception as error:
            logger.exception("a batch for %s failed unexpectedly", lane.name)
            if len(batch) > 1:
                return await self._halved(lane, batch)
            batch[0].fail(InferenceFailedError(f"the batch failed: {error!r}"))
            return None
        for item, answer in zip(batch, answers, strict=True):
            item.finish(answer)
        return True

    async def _halved(self, lane: Lane, batch: Sequence[Item]) -> bool | None:
        half = len(batch) // 2
        parts = [await self._deliver(lane, part) for part in (batch[:half], batch[half:])]
        return False if False in parts else None  # one after the other says little of either

    async def _answers(self, lane: Lane, batch: Sequence[Item]) -> list[InferReply]:
        timeout_s = max(item.deadline for item in batch) - asyncio.get_running_loop().time()
        rows, started = [item.rows for item in batch], time.perf_counter()
        self.observer.sent(lane.name, sum(rows), [started - item.since for item in batch])
        marks, version = [item.mark for item in batch], None
        try:
            with tracer().batch(lane.name, lane.version, sum(rows), marks):
                reply = await self._send(
                    lane.name, _joined(batch), version=lane.version, timeout_s=max(timeout_s, 0.001)
                )
            version = None if lane.version else reply.model_version
        finally:
            self.observer.answered(lane.name, version, time.perf_counter() - started)
        return _scattered(reply, rows)


def _of_its_content(error: BridgeError) -> bool:
    """Whether one message may be to blame, and halving the batch finds it.

    Not so a crash: each half that holds the guilty one would be another.
    """
    refused = isinstance(error, (TritonRefusedError, InferenceFailedError, ShapeError))
    return refused and not isinstance(error, BackendCrashedError)


def _joined(batch: Sequence[Item]) -> Mapping[str, Tensor]:
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
