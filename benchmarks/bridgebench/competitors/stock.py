"""Stock taskiq with its command line's worker, one process."""

import sys

from redis.asyncio import Redis

from bridge.embedded.server import Server
from bridge.tensors import Array
from bridgebench.competitors.protocol import Competitor
from bridgebench.competitors.taskiq_layout import json_mail, taskiq_output
from bridgebench.ground import Ground
from bridgebench.posting import Mail
from bridgebench.workers.stock_app import PREFETCH, make_broker, queue_name


class StockQuorum(Competitor):
    """On taskiq's default queue type."""

    key = "stock_quorum"
    title = "stock taskiq, quorum queue"
    queue_type = "quorum"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.queue = queue_name(self.queue_type)

    async def declare(self) -> None:
        """As its broker does."""
        broker = make_broker(self.ground.servers, self.queue_type)
        await broker.startup()
        await broker.shutdown()

    def mail(self, index: int) -> Mail:
        """A task."""
        return json_mail(index, self.ground.models.row(index))

    def worker(self) -> Server:
        """`taskiq worker`; it runs on uvloop where that is installed, as here."""
        module = "bridgebench.workers.stock_worker:broker"
        command = [sys.executable, "-P", "-m", "taskiq", "worker", module, "--workers", "1"]
        # A line in the log for each task costs it 10 % of its CPU time.
        command += ["--log-level", "WARNING", "--max-async-tasks", str(PREFETCH)]
        return self.ground.worker(self.key, command, b"", BENCH_QUEUE_TYPE=self.queue_type)

    async def output(self, redis: Redis, mail: Mail) -> Array:
        """From Redis."""
        return await taskiq_output(redis, mail)


class StockClassic(StockQuorum):
    """On a classic queue, which is faster on one node."""

    key = "stock_classic"
    title = "stock taskiq, classic queue"
    queue_type = "classic"
