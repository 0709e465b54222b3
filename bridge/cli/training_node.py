"""`mlbridge training-node`: a further machine for a training worker."""

import asyncio
import logging
import signal
from importlib.util import find_spec
from typing import Annotated

import typer
from redis.asyncio import Redis

from bridge.errors import SettingsError
from bridge.settings import Settings, load_settings


def training_node(
    head: Annotated[
        str,
        typer.Option(
            "--head",
            metavar="HOST",
            help="The machine of the training worker; its BRIDGE_TRAINING_ADDRESS.",
        ),
    ],
) -> None:
    """Lend this machine to a training worker, until SIGTERM or Ctrl-C.

    A node takes no messages. It waits until its head, the one training worker of the same
    BRIDGE_TRAINING_GROUP, has a training with `num_nodes` above 1, then trains its share of each
    batch, slice by slice. It needs the head's REDIS_URL, and the same data under DATASET_ROOT (a
    shared folder) and checkpoints under CHECKPOINT_ROOT (a shared folder, or a bucket). All
    machines of a group must reach one another on any port, and nobody else should
    (docs/security.md).

    A stop lets the head save a checkpoint first, for BRIDGE_DRAIN_TIMEOUT_S at most.

    On the head: `BRIDGE_TRAINING_GROUP=big BRIDGE_TRAINING_ADDRESS=gpu-1 mlbridge worker training`

    Example: `BRIDGE_TRAINING_GROUP=big mlbridge training-node --head gpu-1`
    """
    settings = load_settings()
    if settings.bridge_training_group is None:
        raise SettingsError(
            "BRIDGE_TRAINING_GROUP is not set: give this machine the same as the training worker "
            "that it shall help"
        )
    if find_spec("lightning") is None:
        raise SettingsError("a node needs torch: pip install 'taskiq-triton-bridge[train]'")
    logging.getLogger("bridge.training").setLevel(logging.INFO)
    asyncio.run(_serve(settings, head))


async def _serve(settings: Settings, head: str) -> None:
    from bridge.training.node import Node  # noqa: PLC0415 - for other commands it takes too long

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Redis.from_url(settings.redis_connect_url) as redis:
        await Node(redis, settings, head).serve(stop)
