"""`mlbridge worker`: a worker pool with the flags that suit its queue."""

import asyncio
import os
import socket
from enum import StrEnum
from typing import Annotated

import typer

from bridge.cli.output import errors, say
from bridge.embedded.workers import worker_command
from bridge.errors import SettingsError
from bridge.queues import build_broker
from bridge.queues.reach import redis_away
from bridge.settings import Settings, load_settings


class Pool(StrEnum):
    """The two pools."""

    INFERENCE = "inference"
    TRAINING = "training"


def _check_port(settings: Settings) -> None:
    """See that the metrics port is free, once and before any process starts."""
    host, port = settings.bridge_metrics_host, settings.bridge_metrics_port
    if port is None:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"BRIDGE_METRICS_PORT {port} cannot be used ({error.strerror}): each pool of a "
                "machine needs one of its own"
            ) from None


def _check_group(settings: Settings, pool: Pool, count: int) -> None:
    """See that a group of machines can have this pool as its head."""
    name = settings.bridge_training_group
    if pool is not Pool.TRAINING or name is None:
        return
    from bridge.training.group import check_address  # noqa: PLC0415 - few need it

    check_address(settings)
    if count > 1:
        raise SettingsError(
            f"--workers {count}: a worker that leads a group of machines (BRIDGE_TRAINING_GROUP "
            f"{name!r}) has one process; further machines run `mlbridge training-node`"
        )


async def _check_servers(settings: Settings, pool: Pool) -> None:
    broker = build_broker(settings, pool.value)
    try:
        await broker.startup()
    finally:
        await broker.shutdown()
    if (away := await redis_away(settings)) is not None:
        say(f"{away}: the workers start, and results wait for it", errors)


def worker(
    pool: Annotated[Pool, typer.Argument(help="Which queue to serve.")],
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Worker processes. Default: ML_WORKER_COUNT for inference, 1 for training."
        ),
    ] = None,
    drain_timeout_s: Annotated[
        float | None,
        typer.Option(
            "--drain-timeout",
            min=0.0,
            metavar="SECONDS",
            help="After a stop, how long to finish what is in hand. Default: "
            "BRIDGE_DRAIN_TIMEOUT_S, 25.",
        ),
    ] = None,
) -> None:
    """Serve one queue until SIGTERM or Ctrl-C.

    A stop takes no new messages and finishes what is in hand. Exit code 75 says that something
    was not finished in time and went back to its queue, where another worker takes it.

    Queue and Redis are reached for once before the processes start, so that a wrong address or
    password is one clear sentence. A Redis that is away is waited for.

    Example: `TRITON_URL=gpu-1:8001 mlbridge worker inference --workers 4`
    """
    settings = load_settings()
    count = workers or (settings.ml_worker_count if pool is Pool.INFERENCE else 1)
    _check_port(settings)
    _check_group(settings, pool, count)
    asyncio.run(_check_servers(settings, pool))
    if drain_timeout_s is None:
        drain_timeout_s = settings.bridge_drain_timeout_s
    os.environ["BRIDGE_DRAIN_TIMEOUT_S"] = str(drain_timeout_s)
    command = worker_command(
        pool.value, count, drain_timeout_s=drain_timeout_s, run="bridge.cli.pool"
    )
    os.execv(command[0], command)  # noqa: S606 - our own interpreter, our own arguments
