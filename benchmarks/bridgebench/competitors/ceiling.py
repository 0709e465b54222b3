"""The hand-written loop."""

import sys

import aio_pika
from redis.asyncio import Redis

from bridge.embedded.server import Server
from bridge.tensors import Array
from bridgebench.competitors.protocol import Competitor
from bridgebench.competitors.taskiq_layout import binary_mail, json_mail, taskiq_output
from bridgebench.ground import Ground
from bridgebench.posting import Mail
from bridgebench.workers.ceiling import OUT, PREFETCH, QUEUE, READY


class CeilingJson(Competitor):
    """JSON in, JSON out."""

    key = "ceiling_json"
    title = "hand-written loop, JSON"

    def __init__(self, ground: Ground, out: int = OUT, prefetch: int = PREFETCH) -> None:
        """As `Competitor`.

        Args:
            ground: of this run.
            out: batches that it has out at a time.
            prefetch: messages that it holds at most.
        """
        super().__init__(ground)
        self.queue = QUEUE
        if (out, prefetch) != (OUT, PREFETCH):
            self.key = f"{self.key}_{out}_{prefetch}"
            self.title = f"{self.title}, {out} out, prefetch {prefetch}"
        self._variables = {"BENCH_OUT": str(out), "BENCH_PREFETCH": str(prefetch)}

    async def declare(self) -> None:
        """A quorum queue, as ours is."""
        connection = await aio_pika.connect(self.ground.servers.amqp_url)
        async with connection:
            channel = await connection.channel()
            await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})

    def mail(self, index: int) -> Mail:
        """A task."""
        return json_mail(index, self.ground.models.row(index))

    def worker(self) -> Server:
        """One process."""
        command = [sys.executable, "-P", "-m", "bridgebench.workers.ceiling"]
        return self.ground.worker(self.key, command, READY.encode(), **self._variables)

    async def output(self, redis: Redis, mail: Mail) -> Array:
        """From Redis."""
        return await taskiq_output(redis, mail)


class CeilingBinary(CeilingJson):
    """msgpack with raw bytes in, the same out."""

    key = "ceiling_binary"
    title = "hand-written loop, binary"

    def mail(self, index: int) -> Mail:
        """A task."""
        return binary_mail(index, self.ground.models.row(index))
