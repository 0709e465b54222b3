"""The servers of a run: RabbitMQ, Redis and Triton, private and on free ports.

Enters: nothing. Leaves: a `Ground` that every scenario works on; all of it vanishes with the
block.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import SecretStr

from bridge.background import all_or_nothing
from bridge.embedded.rabbitmq import RabbitMQServer
from bridge.embedded.redis import RedisServer
from bridge.embedded.server import Server
from bridge.embedded.state import StateFolder
from bridge.embedded.triton import TritonServer
from bridge.embedded.workers import WorkerPool
from bridge.settings import Settings
from bridgebench.models import Models
from bridgebench.workers.environment import Servers

_PACKAGES = str(Path(__file__).parent.parent)


@dataclass(frozen=True, slots=True)
class Ground:
    """Running servers and the models that Triton serves."""

    state: StateFolder
    models: Models
    rabbitmq: RabbitMQServer
    redis: RedisServer
    triton: TritonServer

    @property
    def servers(self) -> Servers:
        """As competitors' workers get them."""
        return Servers(self.rabbitmq.url, self.redis.url, self.triton.address)

    @property
    def settings(self) -> Settings:
        """The bridge's settings; what tunes it still comes from the environment."""
        return Settings().model_copy(
            update={
                "bridge_queue": "rabbitmq",
                "rabbitmq_host": "127.0.0.1",
                "rabbitmq_port": self.rabbitmq.port,
                "rabbitmq_username": self.rabbitmq.username,
                "rabbitmq_password": SecretStr(self.rabbitmq.password),
                "rabbitmq_vhost": "/",
                "rabbitmq_tls": False,
                "redis_url": SecretStr(self.redis.url),
                "triton_url": self.triton.address,
            }
        )

    @property
    def parts(self) -> dict[str, psutil.Process]:
        """The main process of each server."""
        servers = {"RabbitMQ": self.rabbitmq, "Redis": self.redis, "Triton": self.triton}
        return {name: psutil.Process(server.pid) for name, server in servers.items()}

    def bridge_workers(
        self, count: int = 1, triton: TritonServer | None = None, **more: str
    ) -> WorkerPool:
        """Our own inference workers, as `mlbridge worker inference` starts them.

        Args:
            count: processes.
            triton: another server than the run's own.
            **more: variables of their own.
        """
        variables = {**self._variables, **more}
        if triton is not None:
            variables["TRITON_URL"] = triton.address
        return WorkerPool(self.state, "inference", count, variables)

    def training_workers(self, **more: str) -> WorkerPool:
        """One training worker, as `mlbridge worker training` starts it; publishes to Triton.

        Args:
            **more: variables of its own: where datasets and checkpoints lie, its queue.
        """
        variables = {
            **self._variables,
            "TRITON_ADMIN_KEY": self.triton.admin_key,
            "MODEL_REPOSITORY": str(self.models.repository),
            **more,
        }
        return WorkerPool(self.state, "training", 1, variables)

    @property
    def _variables(self) -> dict[str, str]:
        settings = self.settings
        return {
            "BRIDGE_QUEUE": "rabbitmq",
            "RABBITMQ_HOST": settings.rabbitmq_host,
            "RABBITMQ_PORT": str(settings.rabbitmq_port),
            "RABBITMQ_USERNAME": settings.rabbitmq_username,
            "RABBITMQ_PASSWORD": settings.rabbitmq_password.get_secret_value(),
            "RABBITMQ_VHOST": settings.rabbitmq_vhost,
            "RABBITMQ_TLS": "false",
            "REDIS_URL": settings.redis_url.get_secret_value(),
            "TRITON_URL": self.triton.address,
            "PYTHONUNBUFFERED": "1",
        }

    def worker(self, name: str, command: list[str], ready: bytes, **more: str) -> "ForeignWorker":
        """A competitor's worker.

        Args:
            name: of its folder and log.
            command: program and arguments.
            ready: what its log says once it consumes.
            **more: variables of its own.
        """
        variables = {**self.servers.variables(), "PYTHONPATH": _PACKAGES, **more}
        return ForeignWorker(self.state, name, command, ready, variables)


class ForeignWorker(Server):
    """A competitor's worker process and its children."""

    start_timeout_s = 60.0
    remedy = "Its log says why."

    def __init__(
        self,
        state: StateFolder,
        name: str,
        command: list[str],
        ready: bytes,
        variables: Mapping[str, str],
    ) -> None:
        super().__init__(state, name)
        self._program = command
        self._ready = ready
        self._variables = variables

    def _command(self) -> list[str]:
        return self._program

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONUNBUFFERED": "1", **self._variables}

    async def _answers(self) -> bool:
        return self._ready in self.process.log_since_start()


@asynccontextmanager
async def open_ground() -> AsyncIterator[Ground]:
    """Start everything; each part is ready when the block begins."""
    async with StateFolder() as state:
        models = Models(state.room("models"))
        ground = Ground(
            state,
            models,
            RabbitMQServer(state),
            RedisServer(state),
            TritonServer(state, models.repository, models=models.names),
        )
        servers: list[Server] = [ground.rabbitmq, ground.redis, ground.triton]
        try:
            await all_or_nothing(server.start() for server in servers)
            yield ground
        finally:  # nothing of theirs is kept: no need to ask them to end in order
            await asyncio.gather(*(server.kill() for server in servers))
