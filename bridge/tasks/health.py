"""What a worker process checks of itself for `/readyz`, and tells for `/metrics`."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from bridge.broker import settings
from bridge.errors import BridgeError, QueueError
from bridge.health import Health
from bridge.observer import Observer
from bridge.queues import Broker
from bridge.queues.reach import using_redis
from bridge.triton_client import TritonClient

Standing = tuple[str, tuple[str, ...], float]
"""A gauge of `bridge.metrics`: its name, its labels' values, and its own."""


class Observed(Protocol):
    """Tells an observer what happens in it."""

    observer: Observer


class Watched:
    """What a pool has, beside a queue, that figures are made of."""

    def __init__(self, parts: Iterable[Observed | None], is_model: Callable[[str], bool]) -> None:
        """Nothing is watched yet.

        Args:
            parts: what tells; None: this pool has none.
            is_model: whether there is a model of this name.
        """
        self.parts = [part for part in parts if part is not None]
        self.is_model = is_model
        self.subjects: dict[str, Any] = {}
        """See `bridge.metrics.labels`."""
        self.looks: list[Callable[[], Iterable[Standing]]] = []
        self.asks: list[Any] = []
        """See `bridge.metrics.reporter`."""
        self.backlog = False
        """A task is one message of a second or so: what waits can be told in seconds."""


@asynccontextmanager
async def answering(broker: Broker, triton: TritonClient, watched: Watched) -> AsyncIterator[None]:
    """Answer for this process as long as the block lasts, if BRIDGE_METRICS_PORT is set.

    Raises:
        SettingsError: the port is another program's.
    """
    if settings.bridge_metrics_port is None:
        yield
        return

    # Not before it is known that there is a pool.
    from bridge.metrics.page import render  # noqa: PLC0415

    health = Health(
        settings.bridge_metrics_host, settings.bridge_metrics_port, _checks(broker, triton), render
    )
    await health.start()
    try:
        async with _counting(broker, watched, lambda: health.serving):
            yield
    finally:
        await health.close()


def _checks(broker: Broker, triton: TritonClient) -> dict[str, Any]:
    async def queue() -> str | None:
        return broker.trouble()

    async def redis() -> str | None:
        try:
            with using_redis(settings.redis_shown):
                await broker.results.redis.ping()
        except QueueError as error:
            return str(error)
        if broker.results.waiting:
            return f"Redis does not take results; {broker.results.waiting} wait"
        return None

    async def served() -> str | None:
        try:
            await triton.check()
        except BridgeError as error:
            return str(error)
        return None

    return {"queue": queue, "redis": redis, "triton": served}


@asynccontextmanager
async def _counting(
    broker: Broker, watched: Watched, asking: Callable[[], bool]
) -> AsyncIterator[None]:
    from bridge.metrics.counts import Counts  # noqa: PLC0415 - as above
    from bridge.metrics.labels import Labels  # noqa: PLC0415
    from bridge.metrics.outside import OutsideTasks  # noqa: PLC0415
    from bridge.metrics.reporter import WAITING, Reporter  # noqa: PLC0415

    intake = broker.intake

    def is_task(name: str) -> bool:
        return name in intake.shortcuts or broker.find_task(name) is not None

    def at_hand() -> Iterable[Standing]:
        paused = broker.appetite is not None and broker.appetite() == 0
        yield "bridge_messages_in_hand", (), float(intake.in_hand)
        yield "bridge_paused", (), float(paused)

    async def waiting() -> Iterable[Standing]:
        found = await broker.waiting()
        return [(WAITING, (queue,), float(messages)) for queue, messages in found.items()]

    async def memory() -> Iterable[Standing]:
        return await _memory_of(broker.results.redis)

    counts = Counts(Labels(is_task, watched.is_model, watched.subjects))
    observed: list[Observed] = [intake, intake.endings, *watched.parts]
    for part in observed:
        part.observer = counts
    broker.middlewares.append(OutsideTasks(counts, intake.shortcuts))
    reporter = Reporter(
        counts,
        [at_hand, *watched.looks],
        [waiting, memory, *watched.asks],
        asking=asking,
        in_seconds=watched.backlog,
    )
    async with reporter.running():
        yield


async def _memory_of(redis: Redis) -> list[Standing]:
    """What Redis uses, and may use if that is bounded; nothing where this user may not ask."""
    try:
        told: dict[str, Any] = await redis.info("memory")
    except NoPermissionError:
        return []
    figures = {"": told["used_memory"], "_limit": told.get("maxmemory")}
    return [
        (f"bridge_redis_memory{which}_bytes", (), float(figure))
        for which, figure in figures.items()
        if figure
    ]
