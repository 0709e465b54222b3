"""Dramatiq with two processes of eight threads."""

import json
import sys
from typing import cast

import numpy as np
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from redis.asyncio import Redis

from bridge.embedded.server import Server
from bridge.tensors import Array
from bridgebench.competitors.protocol import Competitor
from bridgebench.ground import Ground
from bridgebench.models import MLP
from bridgebench.posting import Mail
from bridgebench.workers.dramatiq_app import QUEUE, make_actor

_PREFETCH = 64  # of 16, 64 and 256 the fastest


class Dramatiq(Competitor):
    """On its default, a durable classic queue."""

    key = "dramatiq"
    title = "Dramatiq, 2 × 8 threads"

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.queue = QUEUE
        self.actor = make_actor(ground.servers)
        self.results = self.actor.broker.get_results_backend()

    async def declare(self) -> None:
        """As its broker does."""
        broker = cast("RabbitmqBroker", self.actor.broker)
        broker.declare_queue(QUEUE, ensure=True)

    def mail(self, index: int) -> Mail:
        """A task, as its broker encodes it."""
        message = self.actor.message(MLP, {"x": self.ground.models.row(index).tolist()})
        key = self.results.build_message_key(message)
        return Mail(index, key, message.encode(), "application/json")

    def worker(self) -> Server:
        """`dramatiq`."""
        flags = ["--processes", "2", "--threads", "8"]
        command = [sys.executable, "-P", "-m", "dramatiq"]
        command += ["bridgebench.workers.dramatiq_worker:broker", *flags]
        return self.ground.worker(self.key, command, b"", dramatiq_queue_prefetch=str(_PREFETCH))

    async def output(self, redis: Redis, mail: Mail) -> Array:
        """From Redis."""
        value = await redis.lindex(mail.key, 0)
        if value is None:
            raise LookupError(f"no result under {mail.key}")
        return np.asarray(json.loads(value)["outputs"]["y"])
