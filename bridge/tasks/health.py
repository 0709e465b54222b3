"""What a worker process checks of itself for `/readyz`, and counts for `/metrics`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bridge.broker import settings
from bridge.channels import REDIS_LOST
from bridge.errors import BridgeError
from bridge.health import Health
from bridge.queues import Broker
from bridge.triton_client import TritonClient


@asynccontextmanager
async def answering(broker: Broker, triton: TritonClient) -> AsyncIterator[None]:
    """Answer for this process as long as the block lasts, if BRIDGE_METRICS_PORT is set.

    Raises:
        SettingsError: the port is another program's.
    """
    if settings.bridge_metrics_port is None:
        yield
        return

    from bridge import metrics  # noqa: PLC0415 - not before it is known that there is a pool

    broker.intake.observer = metrics.Counts()

    async def queue() -> str | None:
        paused = broker.appetite is not None and broker.appetite() == 0
        metrics.tell(in_hand=broker.intake.in_hand, paused=paused)
        return broker.trouble()

    async def redis() -> str | None:
        try:
            await broker.results.redis.ping()
        except REDIS_LOST as error:
            return f"cannot use Redis at {settings.redis_shown}: {error}"
        if broker.results.waiting:
            return f"Redis does not take results; {broker.results.waiting} wait"
        return None

    async def served() -> str | None:
        try:
            await triton.check()
        except BridgeError as error:
            return str(error)
        return None

    checks = {"queue": queue, "redis": redis, "triton": served}
    health = Health(
        settings.bridge_metrics_host, settings.bridge_metrics_port, checks, metrics.render
    )
    await health.start()
    try:
        yield
    finally:
        await health.close()
