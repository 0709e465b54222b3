"""The notice board of a group of machines that train together: what they tell each other. No torch.

Enters: a group's name. Leaves: notices in Redis, all of them plain data that is checked as it is
read: never code, never an import path, and no address to connect to (a node has its head's from
whoever started it). Keys:

    bridge:group:<group>:head           the worker that leads, with an expiry
    bridge:group:<group>:nodes          sorted set: nodes that are free, by when they last said so
    bridge:group:<group>:call:<node>    what a node shall join, with an expiry
    bridge:group:<group>:word:<node>    how it is with a node that was called, with an expiry
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from redis.asyncio import Redis

from bridge.training.request import TrainingRequest

SAY_EVERY_S = 3.0
"""How often a node says that it is there."""
GONE_S = 20
"""A node of which nothing was heard for so long is gone."""

_NODE = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
_CONFIG = ConfigDict(strict=True, extra="forbid", frozen=True)
_MOST_NODES = 64
_MOST_TEXT = 4096

RunId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Call(BaseModel):
    """What a node is asked to join. The head's address is not in it."""

    model_config = _CONFIG

    run_id: RunId
    """Of one slice of one training."""
    task_id: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,256}$")]
    token: int = Field(ge=1)
    """Of the head's lease: it counts for as long as the head has that."""
    port: int = Field(ge=1, le=65_535)
    """On which the head waits."""
    rank: int = Field(ge=1, lt=_MOST_NODES)
    """The node's number; the head is 0."""
    dataset_id: str
    model: dict[str, Any]
    hyperparameters: dict[str, Any]
    dataset_hash: str
    """What the head's data are; a node that has others refuses."""
    checkpoint: Sha256 | None
    """Of the file that all go on from; None: they begin."""

    @classmethod
    def of(cls, request: TrainingRequest, **about: Any) -> "Call":
        """A call to train what a request asks for."""
        return cls(
            dataset_id=request.dataset_id,
            model=request.model.model_dump(mode="json", exclude_unset=True),
            hyperparameters=request.hyperparameters.model_dump(mode="json", exclude_unset=True),
            **about,
        )


class Word(BaseModel):
    """How it is with a node that was called."""

    model_config = _CONFIG

    run_id: RunId
    state: Literal["here", "leaving", "ended", "failed"]
    error: Annotated[str, StringConstraints(max_length=128)] = ""
    """Class of what it ended in."""
    text: Annotated[str, StringConstraints(max_length=_MOST_TEXT)] = ""

    @classmethod
    def failed(cls, run_id: str, error: BaseException) -> "Word":
        """It cannot join, or not go on."""
        text = str(error)[:_MOST_TEXT]
        return cls(run_id=run_id, state="failed", error=type(error).__name__, text=text)


class Board:
    """One group's. Every method raises one of REDIS_LOST where Redis is away."""

    def __init__(self, redis: Redis, group: str) -> None:
        """Nothing is asked yet.

        Args:
            redis: where results are; not closed here.
            group: its name.
        """
        self._redis: Any = redis  # its types are of two minds
        self._room = f"bridge:group:{group}"

    async def offer(self, node: str) -> None:
        """A node is there, and free."""
        await self._redis.zadd(f"{self._room}:nodes", {node: await self._now()})

    async def withdraw(self, node: str) -> None:
        """A node is not free any more."""
        await self._redis.zrem(f"{self._room}:nodes", node)

    async def free(self) -> list[str]:
        """The nodes that are free."""
        since = await self._now() - GONE_S
        found = await self._redis.zrangebyscore(f"{self._room}:nodes", since, "+inf")
        names = (name.decode(errors="replace") for name in found)
        return sorted(name for name in names if _NODE.fullmatch(name))

    async def call(self, node: str, call: Call) -> None:
        """Ask a node to join."""
        await self._redis.set(f"{self._room}:call:{node}", call.model_dump_json(), ex=GONE_S)

    async def called(self, node: str) -> Call | None:
        """What a node is asked to join; taken from the board.

        Raises:
            ValueError: it is not what a head writes.
        """
        key = f"{self._room}:call:{node}"
        found = await self._redis.get(key)
        if found is None or not await self._redis.delete(key):
            return None
        return Call.model_validate_json(found)

    async def say(self, node: str, word: Word) -> None:
        """Tell the head how it is with a node."""
        await self._redis.set(f"{self._room}:word:{node}", word.model_dump_json(), ex=GONE_S)

    async def heard(self, node: str, run_id: str) -> Word | None:
        """What a node last said of a slice; None: nothing, or nothing any more."""
        found = await self._redis.get(f"{self._room}:word:{node}")
        try:
            word = None if found is None else Word.model_validate_json(found)
        except ValidationError:
            return None
        return word if word is not None and word.run_id == run_id else None

    async def holds(self, call: Call) -> bool:
        """Whether the head still has the training that it called for; see `bridge.jobs`."""
        return bool(await self._redis.get(f"bridge:lease:{call.task_id}") == b"%d" % call.token)

    async def lead(self, worker: str) -> str:
        """Have a worker lead the group, unless another does; returns who leads it now."""
        key = f"{self._room}:head"
        if not await self._redis.set(key, worker, ex=GONE_S, nx=True):
            leader = (await self._redis.get(key) or b"").decode(errors="replace")
            if leader != worker:
                return str(leader)
            await self._redis.set(key, worker, ex=GONE_S)
        return worker

    async def depose(self, worker: str) -> None:
        """Have a worker not lead any more."""
        key = f"{self._room}:head"
        if await self._redis.get(key) == worker.encode():
            await self._redis.delete(key)

    async def _now(self) -> float:
        seconds, micros = await self._redis.time()
        return float(seconds + micros / 1e6)
