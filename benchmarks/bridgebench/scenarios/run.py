"""What every scenario gets: servers, connections, and how much to do."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from bridge.background import all_or_nothing
from bridge.embedded.server import Server
from bridge.queues import build_broker
from bridgebench.ground import Ground, open_ground
from bridgebench.posting import Post


@dataclass(frozen=True, slots=True)
class Options:
    """How much to do, and where the report goes."""

    out: Path
    repetitions: int = 5
    quick: bool = False
    """A run that only shows that everything works; its figures mean nothing."""
    only: frozenset[str] = frozenset()
    """Keys of competitors of the drain; empty: all."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run on one ground."""

    ground: Ground
    options: Options
    post: Post
    redis: Redis
    say: Callable[[str], None]

    def pick(self, full: float, quick: float) -> float:
        """The one figure or the other."""
        return quick if self.options.quick else full

    def choose(self, full: Sequence[int], quick: Sequence[int]) -> Sequence[int]:
        """The one series or the other."""
        return quick if self.options.quick else full

    @property
    def few_repetitions(self) -> int:
        """For long series, whose shape matters more than each figure."""
        return min(self.options.repetitions, 3)

    @asynccontextmanager
    async def working(self, *servers: Server) -> AsyncIterator[None]:
        """Workers that run during the block; killed at its end, as they have nothing left."""
        await self.declare_ours()
        try:
            await all_or_nothing(server.start() for server in servers)
            yield
        finally:
            await asyncio.gather(*(server.kill() for server in servers))
            await self.redis.flushdb()

    async def declare_ours(self) -> None:
        """The bridge's queue, empty."""
        broker = build_broker(self.ground.settings, "inference")
        await broker.startup()
        await broker.shutdown()
        await self.post.purge(self.ground.settings.taskiq_ml_queue)


@asynccontextmanager
async def open_run(options: Options, say: Callable[[str], None]) -> AsyncIterator[Run]:
    """Start the servers and connect to them."""
    async with (
        open_ground() as ground,
        Post(ground.servers.amqp_url) as post,
        Redis.from_url(ground.servers.redis_url) as redis,
    ):
        yield Run(ground, options, post, redis, say)
