"""Ways to call a model, and loops that call them.

Enters: a coroutine function that makes one call. Leaves: how long each took, and how many a
second.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

import aio_pika
import numpy as np
from taskiq.kicker import AsyncKicker
from taskiq.serializers import JSONSerializer
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue
from taskiq_redis import RedisAsyncResultBackend

from bridge.client import BridgeClient
from bridge.settings import Settings
from bridge.tensors import Array, Tensor
from bridge.triton_client import TritonClient

Call = Callable[[], Awaitable[object]]
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Loop:
    """What came of a loop of calls."""

    per_s: float
    took_ms: tuple[float, ...]


async def one_after_another(call: Call, count: int) -> Loop:
    """One caller, idle servers."""
    took: list[float] = []
    begun = time.perf_counter()
    for _ in range(count):
        started = time.perf_counter()
        await call()
        took.append((time.perf_counter() - started) * 1e3)
    return Loop(count / (time.perf_counter() - begun), tuple(took))


async def side_by_side(call: Call, in_flight: int, seconds: float) -> Loop:
    """So many callers, each of which calls again as soon as it has its answer.

    Counted are calls that ended within the time, which begins when each caller has had an answer.
    """
    took: list[tuple[float, float]] = []
    stop = False

    async def caller() -> None:
        await call()
        warm.append(True)
        while not stop:
            started = time.perf_counter()
            await call()
            took.append((started, time.perf_counter()))

    warm: list[bool] = []
    callers = [asyncio.ensure_future(caller()) for _ in range(in_flight)]
    while len(warm) < in_flight and not any(task.done() for task in callers):
        await asyncio.sleep(0.005)
    begun = time.perf_counter()
    try:
        await asyncio.wait(callers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        stop, ended = True, time.perf_counter()
        await asyncio.gather(*callers)
    finally:
        for task in callers:
            task.cancel()
    counted = [(a, b) for a, b in took if begun < b <= ended]
    return Loop(len(counted) / (ended - begun), tuple((b - a) * 1e3 for a, b in counted))


def through_queue(client: BridgeClient, model: str, array: Array) -> Call:
    """Our client."""
    return lambda: client.infer(model, {"x": array}, timeout_s=TIMEOUT_S)


def direct(triton: TritonClient, model: str, array: Array) -> Call:
    """Our gRPC client."""
    tensor = Tensor.from_array(array)
    return lambda: triton.infer(model, {"x": tensor}, timeout_s=TIMEOUT_S)


class JsonCaller:
    """A producer that has never heard of the bridge: stock taskiq, JSON, on the bridge's queue."""

    def __init__(self, settings: Settings) -> None:
        name, key = settings.taskiq_ml_queue, settings.taskiq_ml_routing_key
        self._broker = AioPikaBroker(
            settings.rabbitmq_url,
            exchange=Exchange(
                name=settings.taskiq_ml_exchange,
                type=aio_pika.ExchangeType(settings.taskiq_ml_exchange_type),
            ),
            task_queues=[Queue(name=name, routing_key=key)],
            dead_letter_queue=Queue(name=f"{name}.dead_letter"),
        ).with_result_backend(
            RedisAsyncResultBackend(
                settings.redis_url.get_secret_value(), serializer=JSONSerializer()
            )
        )

    async def __aenter__(self) -> Self:
        await self._broker.startup()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._broker.shutdown()

    def call(self, model: str, array: Array, check_interval_s: float = 0.005) -> Call:
        """One task with nested lists; its result is polled for."""
        return stock_call(self._broker, model, array, check_interval_s)


def stock_call(broker: AioPikaBroker, model: str, array: Array, check_interval_s: float) -> Call:
    """`kiq` and `wait_result`."""

    async def call() -> object:
        kicker: AsyncKicker[..., object] = AsyncKicker("ml_inference", broker, {})
        task = await kicker.kiq(model, {"x": array.tolist()})
        result = await task.wait_result(check_interval=check_interval_s, timeout=TIMEOUT_S)
        result.raise_for_error()
        return result.return_value

    return call


def pooled(loops: Sequence[Loop]) -> list[float]:
    """All durations in ms."""
    return [ms for loop in loops for ms in loop.took_ms]


def ones(*shape: int) -> Array:
    """An FP32 tensor whose JSON is as long as that of real data."""
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)
