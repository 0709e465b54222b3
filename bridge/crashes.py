"""A model whose process died is loaded again, by those who may: the training workers.

Enters: reports of inference workers, which hold no admin key, over a channel of Redis. Leaves: the
model unloaded and loaded, which Triton does not do by itself. What a report names is looked for
among what is served, and nowhere else.
"""

import asyncio
import logging
import time
from typing import Protocol

from redis.asyncio import Redis

from bridge.channels import listen, tell
from bridge.errors import BridgeError

_CHANNEL = "bridge:crashed"
_ONCE_IN_S = 2.0  # reports of the same crash come from several workers

logger = logging.getLogger("bridge.crashes")


class Triton(Protocol):
    """The part of `TritonClient` that is needed."""

    async def reload(self, name: str) -> bool:
        """Unload and load a model where it is served."""
        ...


async def report(redis: Redis, model: str) -> None:
    """Say that a model's process died."""
    await tell(redis, _CHANNEL, model)


async def repair(redis: Redis, triton: Triton) -> None:
    """Reload what is reported, until cancelled."""
    repaired: dict[str, float] = {}

    async def heard(model: str) -> None:
        if repaired.get(model, 0.0) > time.monotonic() - _ONCE_IN_S:
            return
        try:
            if await triton.reload(model):
                logger.warning("model %r had crashed in Triton: reloaded", model)
                repaired[model] = time.monotonic()
        except BridgeError as error:
            logger.error("model %r has crashed, and is not reloaded: %s", model, error)  # noqa: TRY400
            await asyncio.sleep(_ONCE_IN_S)

    await listen(redis, _CHANNEL, heard)
