"""Celery, in the drain with the prefork pool and two processes for each core."""

import json
import os
import sys
import uuid

import numpy as np
from redis.asyncio import Redis

from bridge.embedded.server import Server
from bridge.tensors import Array
from bridgebench.competitors.protocol import Competitor, value_of
from bridgebench.ground import Ground
from bridgebench.models import MLP
from bridgebench.posting import Mail
from bridgebench.workers.celery_app import QUEUE, TASK, make_app

PROCESSES = 2 * (os.cpu_count() or 1)
"""In the drain; `variants` measures others."""


class Celery(Competitor):
    """On its default, a durable classic queue."""

    key = "celery"
    title = f"Celery, prefork × {PROCESSES}"

    def __init__(self, ground: Ground, pool: str = "prefork", concurrency: int = PROCESSES) -> None:
        """As `Competitor`.

        Args:
            ground: of this run.
            pool: `prefork` or `threads`.
            concurrency: its processes, or the threads of its one process.
        """
        super().__init__(ground)
        if (pool, concurrency) != ("prefork", PROCESSES):
            self.key, self.title = f"celery_{pool}_{concurrency}", f"Celery, {pool} × {concurrency}"
        self._pool, self._concurrency = pool, concurrency
        self.queue = QUEUE
        self.app = make_app(ground.servers)

    async def declare(self) -> None:
        """As its worker does."""
        with self.app.connection_for_write() as connection:
            for queue in self.app.conf.task_queues:
                queue(connection.default_channel).declare()

    def mail(self, index: int) -> Mail:
        """A task, by Celery's own message protocol 2."""
        task_id = str(uuid.uuid4())
        arguments = (MLP, {"x": self.ground.models.row(index).tolist()})
        made = self.app.amqp.as_task_v2(task_id, TASK, args=arguments)
        return Mail(
            index,
            f"celery-task-meta-{task_id}",
            json.dumps(made.body).encode(),
            "application/json",
            headers={k: v for k, v in made.headers.items() if v is not None},
            properties={"correlation_id": task_id, "content_encoding": "utf-8"},
        )

    def worker(self) -> Server:
        """`celery worker`."""
        program = [sys.executable, "-P", "-m", "celery"]
        flags = ["--pool", self._pool, "--concurrency", str(self._concurrency), "-O", "fair"]
        flags += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [*program, "--app", "bridgebench.workers.celery_worker:app", "worker", *flags]
        return self.ground.worker(self.key, [*command, "--loglevel", "WARNING"], b"")

    async def output(self, redis: Redis, mail: Mail) -> Array:
        """From Redis."""
        result = json.loads(await value_of(redis, mail.key))
        if result["status"] != "SUCCESS":
            raise LookupError(str(result))
        return np.asarray(result["result"]["outputs"]["y"])
