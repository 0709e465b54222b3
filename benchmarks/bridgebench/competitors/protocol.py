"""What a scenario needs to know of a competitor."""

from abc import ABC, abstractmethod
from typing import Any

from redis.asyncio import Redis

from bridge.embedded.server import Server
from bridge.tensors import Array
from bridgebench.ground import Ground
from bridgebench.posting import Mail


class Competitor(ABC):
    """One way to serve queued tasks. Cheap to make; nothing runs before its worker is started."""

    key: str
    """In reports."""
    title: str
    """For people."""
    queue: str

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    @abstractmethod
    async def declare(self) -> None:
        """Declare the queue as the competitor itself does."""

    @abstractmethod
    def mail(self, index: int) -> Mail:
        """One one-row task for the MLP, encoded as the competitor's own producer encodes it."""

    @abstractmethod
    def worker(self) -> Server:
        """Its worker, not started."""

    @abstractmethod
    async def output(self, redis: Redis, mail: Mail) -> Array:
        """The output `y` that lies in Redis for a task.

        Raises:
            LookupError: the task failed, or has no result.
        """

    def is_right(self, mail: Mail, output: Array) -> bool:
        """Whether that is what onnxruntime answers."""
        return self.ground.models.is_right(mail.index, output)


async def value_of(redis: Redis, key: str) -> Any:
    """What lies under a key.

    Raises:
        LookupError: nothing.
    """
    value = await redis.get(key)
    if value is None:
        raise LookupError(f"no result under {key}")
    return value
