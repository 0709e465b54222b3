"""A model whose process died is loaded again, and its suspects are tried one at a time.

Enters: reports of inference workers, which hold no admin key, over a channel of Redis. Leaves: the
model unloaded and loaded by those who may, the training workers, as Triton does not do it by
itself. What a report names is looked for among what is served, and nowhere else.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import LockError

from bridge.channels import REDIS_LOST, listen, tell
from bridge.errors import BridgeError, ModelUnavailableError

_CHANNEL = "bridge:crashed"
_ONCE_IN_S = 2.0  # reports of the same crash come from several workers
_TURN_S = 10.0  # so long a worker that was killed keeps the other suspects waiting
_WAITS_S = 5.0  # then the task goes back to the queue, and leaves its place to others
_LOOKS_S = 0.05

logger = logging.getLogger("bridge.crashes")


class Triton(Protocol):
    """The part of `TritonClient` that is needed."""

    async def reload(self, name: str) -> bool:
        """Unload and load a model where it is served."""
        ...


async def report(redis: Redis, model: str) -> None:
    """Say that a model's process died."""
    await tell(redis, _CHANNEL, model)


@asynccontextmanager
async def turn_of_suspect(redis: Redis, model: str) -> AsyncIterator[None]:
    """Hold the only turn, of all workers', to try a task that may have crashed the model.

    A turn that takes longer than ten seconds is no longer the only one. Without Redis there are no
    turns: the task is tried at once.

    Args:
        redis: the same for all workers.
        model: its name, checked.

    Raises:
        ModelUnavailableError: others were tried for five seconds.
    """
    lock = redis.lock(f"bridge:suspect:{model}", timeout=_TURN_S, sleep=_LOOKS_S)
    held = True
    try:
        held = await lock.acquire(blocking_timeout=_WAITS_S)
    except REDIS_LOST as error:
        logger.info("no turns for those who may have crashed %r: %s", model, error)
    if not held:
        raise ModelUnavailableError(
            f"model {model!r} crashed of late, and others that may be to blame are tried first"
        )
    try:
        yield
    finally:
        with contextlib.suppress(LockError, *REDIS_LOST):
            await lock.release()


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
