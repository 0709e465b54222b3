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
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.exceptions import LockError

from bridge.channels import REDIS_LOST, listen, tell
from bridge.errors import AwaitingTurnError, BackendCrashedError, BridgeError

_CHANNEL = "bridge:crashed"
_ONCE_IN_S = 2.0  # reports of the same crash come from several workers
_DEAD_MS = 5000
_TURN_S = 10.0  # so long a worker that was killed keeps the other suspects waiting
_ASKING = 16
# Hundreds may come back together, and redis-py's pool refuses a hundred-first connection.
_asking: WeakKeyDictionary[Redis, asyncio.Semaphore] = WeakKeyDictionary()

logger = logging.getLogger("bridge.crashes")


class Triton(Protocol):
    """The part of `TritonClient` that is needed."""

    async def reload(self, name: str) -> bool:
        """Unload and load a model where it is served."""
        ...


async def report(redis: Redis, model: str) -> None:
    """Say that a model's process died."""
    with contextlib.suppress(*REDIS_LOST):
        await redis.set(_dead(model), b"", px=_DEAD_MS)
    await tell(redis, _CHANNEL, model)


@asynccontextmanager
async def turn_of_suspect(redis: Redis, model: str) -> AsyncIterator[None]:
    """Hold the only turn, of all workers', to try a task that may have crashed the model.

    There is none from a crash until the model is loaded again, at most for five seconds: who finds
    it dead could not be told from who killed it. A turn that takes longer than ten seconds is no
    longer the only one. Without Redis there are no turns: the task is tried at once. Nobody waits
    here, where he would take the place of tasks for other models: he comes back through the queue.

    Args:
        redis: the same for all workers.
        model: its name, checked.

    Raises:
        AwaitingTurnError: another is being tried, or the model is dead.
    """
    lock = redis.lock(f"bridge:suspect:{model}", timeout=_TURN_S)
    held = True
    try:
        async with _asking.setdefault(redis, asyncio.Semaphore(_ASKING)):
            held = not await redis.exists(_dead(model)) and await lock.acquire(blocking=False)
    except REDIS_LOST as error:
        logger.info("no turns for those who may have crashed %r: %s", model, error)
    if not held:
        raise AwaitingTurnError(
            f"model {model!r} crashed of late, and other tasks that may be to blame are tried first"
        )
    try:
        yield
    except BackendCrashedError:
        await report(redis, model)  # before the next one's turn
        raise
    finally:
        with contextlib.suppress(LockError, *REDIS_LOST):
            await lock.release()


def _dead(model: str) -> str:
    return f"bridge:dead:{model}"


async def repair(redis: Redis, triton: Triton) -> None:
    """Reload what is reported, until cancelled; one model does not wait for another."""
    repaired: dict[str, float] = {}
    repairing: set[str] = set()

    async def reload(model: str) -> None:
        try:
            if await triton.reload(model):
                logger.warning("model %r had crashed in Triton: reloaded", model)
                repaired[model] = time.monotonic()
                with contextlib.suppress(*REDIS_LOST):
                    await redis.delete(_dead(model))
        except BridgeError as error:
            logger.error("model %r has crashed, and is not reloaded: %s", model, error)  # noqa: TRY400
            await asyncio.sleep(_ONCE_IN_S)
        finally:
            repairing.discard(model)

    async with asyncio.TaskGroup() as group:

        async def heard(model: str) -> None:
            lately = repaired.get(model, 0.0) > time.monotonic() - _ONCE_IN_S
            if not lately and model not in repairing:
                repairing.add(model)
                group.create_task(reload(model))

        await listen(redis, _CHANNEL, heard)
