"""What waits, who takes it, and how fast it comes and goes."""

from dataclasses import dataclass

from bridge.errors import BridgeError
from bridge.overview.parts import UP, Part, bounded
from bridge.queues import Management, QueueDepth, queue_depths
from bridge.settings import Settings


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue. None: unknown, as RabbitMQ's management API does not answer, or no such queue."""

    queue: str
    waiting: int | None
    consumers: int | None
    unacknowledged: int | None = None
    in_per_s: float | None = None
    out_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The queues, and their server."""

    part: Part
    depths: list[QueueDepth] | None
    """None: the server cannot be asked."""
    rows: list[QueueRow]
    rates_missing: str | None
    """Why there are no rates; None: there are."""


async def find_queues(settings: Settings) -> Waiting:
    """Depths and consumers by the queue's own protocol, rates by RabbitMQ's management API."""
    streams = settings.bridge_queue == "redis-streams"
    name = "Redis Streams" if streams else "RabbitMQ"
    where = settings.redis_shown if streams else settings.rabbitmq_shown
    try:
        depths = await bounded(queue_depths(settings))
    except BridgeError as error:
        return Waiting(Part(name, where, str(error)), None, [], None)
    part = Part(name, where, UP)
    missing: str | None = "Redis Streams count none"
    rows = [QueueRow(depth.name, depth.messages, depth.consumers) for depth in depths]
    if not streams:
        try:
            rows, missing = await bounded(_with_rates(settings, rows)), None
        except BridgeError as error:
            missing = str(error)
    return Waiting(part, depths, rows, missing)


async def _with_rates(settings: Settings, rows: list[QueueRow]) -> list[QueueRow]:
    api = Management(settings)
    found = []
    for row in rows:
        figures = await api.queue(row.queue) if row.waiting is not None else None
        if figures is None:  # not there, or one row for several
            found.append(row)
            continue
        rates = (figures.unacknowledged, figures.in_per_s, figures.out_per_s)
        found.append(QueueRow(row.queue, row.waiting, row.consumers, *rates))
    return found
