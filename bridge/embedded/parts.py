"""What a stack consists of, as a person sees it; and the ways to find a part that runs."""

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from bridge.embedded.probes import amqp_answers, grpc_answers, port_open, redis_answers
from bridge.embedded.server import Server
from bridge.settings import Settings
from bridge.triton_client import TritonClient

_REDIS_PORT = 6379
_HTTP_PORTS = {"http": 80, "https": 443}


class PartState(StrEnum):
    """How a part is doing."""

    FOUND = "found"
    """It ran before us, and is used as it is."""
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class Part:
    """One server or worker pool."""

    name: str
    address: str
    """Where it can be reached, or what it serves; without secrets."""
    state: PartState
    server: Server | None = None
    """The process behind it, which we started and will stop; None if it was found."""
    metrics: str | None = None
    """URL that Prometheus scrapes, of a worker pool."""

    @property
    def pid(self) -> int | None:
        """Of its main process; None if it was found."""
        return None if self.server is None else self.server.pid

    @property
    def log(self) -> Path | None:
        """Its log file, as long as the stack lives; None if it was found."""
        return None if self.server is None else self.server.process.log_path


# Behind TLS whatever accepts connections is taken for the server: if it is not, or refuses us, the
# workers say so; starting another beside it would hide that.


async def rabbitmq_runs(settings: Settings) -> bool:
    """Whether a RabbitMQ answers where the settings say."""
    if settings.rabbitmq_tls:
        return await port_open(settings.rabbitmq_host, settings.rabbitmq_port)
    return await amqp_answers(settings.rabbitmq_host, settings.rabbitmq_port)


async def redis_runs(settings: Settings) -> bool:
    """Whether a Redis answers under the settings' URL, and lets us in."""
    url = settings.redis_url.get_secret_value()
    if url.startswith("rediss:"):
        parts = urlsplit(url)
        return await port_open(parts.hostname or "", parts.port or _REDIS_PORT)
    return await redis_answers(url)


async def triton_runs(settings: Settings) -> bool:
    """Whether the first of the settings' Tritons is ready."""
    address = settings.triton_addresses[0]
    host, _, port = address.rpartition(":")
    if settings.triton_tls:
        return await port_open(host.strip("[]"), int(port))
    if not await grpc_answers(host.strip("[]"), int(port)):
        return False
    async with TritonClient([address]) as client:
        try:
            async with asyncio.timeout(5):
                return await client.ready()
        except TimeoutError:
            return False


async def dashboard_runs(url: str) -> bool:
    """Whether something listens where TASKIQ_DASHBOARD_URL says."""
    parts = urlsplit(url)
    return await port_open(parts.hostname or "", parts.port or _HTTP_PORTS[parts.scheme])
