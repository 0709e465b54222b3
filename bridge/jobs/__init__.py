"""Long tasks in slices: who owns one, which of its messages counts, and what its people want.

Enters: a task's id and a worker's name. Leaves: a lease with a fencing token (a number that only
grows; Kleppmann, "How to do distributed locking", 2016), for as long as it is renewed.

A long task is one message at a time: each slice ends with a message that continues it. A crash
between two steps may leave several. Each carries the token under which it was written (its baton;
0: the caller's own), and only two are good: the one that was claimed last, again, and the one that
was written under the newest token. All others are stale and are dropped, so that no crash makes two
of one task. Keys in Redis, by task id:

    bridge:job:<id>        hash: fence, baton, state, want, priority, slices, worker, message;
                           publishing or expired, once that is decided; unended and floor: how many
                           took it and were lost, and the checkpoint's token since when
    bridge:lease:<id>      the token of who trains it now, with an expiry

and, by queue:

    bridge:jobs:<queue>            set: all ids
    bridge:jobs:<queue>:waiting    sorted set: ids by priority
    bridge:jobs:<queue>:running    sorted set: ids by when their lease ends, Unix milliseconds
"""

import contextlib
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from bridge.channels import REDIS_LOST, leave_replica, tell, until_answered
from bridge.jobs.scripts import (
    CLAIM,
    COMMIT,
    EXPIRE,
    FORGET,
    HAND_ON,
    HANDED_ON,
    RECALL,
    REGISTER,
    RELEASE,
    RENEW,
    RESUME,
    SENT,
    keys_of,
)
from bridge.messages import decode_result
from bridge.settings import Settings

CONTROL = "bridge:control"
"""Channel on which a task's id says that somebody wants something of it."""

_LEAST_KEPT_S = 30 * 86_400  # a task that waits for its turn, however long the queue, is not lost
logger = logging.getLogger("bridge.jobs")
Answer = Literal["yours", "held", "stale", "paused", "yield", "poisonous"]


class Claim(NamedTuple):
    """The answer to who wants to train a task."""

    answer: Answer
    """yours; held by another; stale: this message does not count any more; paused; yield: a task of
    higher priority waits; poisonous: whoever had it was lost with it, too often."""
    number: int = 0
    """The token: yours, or that of who holds it."""
    slices: int = 0
    """How many there were, this one included."""
    left_ms: int = 0
    """For how long another holds it, unless the lease is renewed."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is known of a task that runs in slices."""

    task_id: str
    state: str
    """queued, running or paused."""
    priority: int
    slices: int
    worker: str
    pausing: bool
    """Somebody wants it paused."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Who wants to train a task, and with which message."""

    worker: str
    """For people to read."""
    message: bytes
    """What would continue the task, should this worker never do so."""
    baton: int = 0
    """Of the message that was delivered."""
    priority: int = 0
    """A task of higher priority goes first, once, at each turn."""
    floor: int = 0
    """A token that is known to have been given out, should Redis have lost it."""
    limit: int = 1_000_000
    """How many may be lost with it, since one of them got further."""


class Jobs:
    """The records of all such tasks of one queue."""

    def __init__(self, redis: Redis, queue: str, *, lease_s: float, keep_s: int) -> None:
        """Nothing is asked yet.

        Args:
            redis: where results are; not closed here.
            queue: its name; several may have the same Redis.
            lease_s: a worker that says nothing for so long has lost its task.
            keep_s: for how long the record of a task is kept of which nothing is heard; at least
                for 30 days, and for ever while the task is paused.
        """
        self._redis: Any = redis  # its types are of two minds
        self._all = f"bridge:jobs:{queue}"
        self._waiting, self._running = f"{self._all}:waiting", f"{self._all}:running"
        self._lease_ms, self._keep_s = int(lease_s * 1000), max(keep_s, _LEAST_KEPT_S)

    @classmethod
    def of(cls, redis: Redis, settings: Settings) -> Self:
        """Those of the settings' training queue."""
        return cls(
            redis,
            settings.taskiq_ml_training_queue,
            lease_s=settings.bridge_training_lease_s,
            keep_s=settings.bridge_checkpoint_keep_s,
        )

    async def claim(self, task_id: str, asking: Asking) -> Claim:
        """Ask for a task, whose id the caller has checked; a Redis that is away is waited for."""
        keys = (*keys_of(task_id), self._waiting, self._running, self._all)
        arguments = (
            *(task_id, asking.baton, asking.floor, self._lease_ms, asking.priority),
            *(asking.worker, asking.message, self._keep_s, asking.limit),
        )
        answer, *numbers = await until_answered(
            lambda: self._run(CLAIM, keys, *arguments), f"who trains {task_id}"
        )
        return Claim(answer.decode(), *numbers)

    async def renew(self, task_id: str, token: int) -> str:
        """Keep a task.

        Returns:
            What somebody wants: "pause" or ""; "lost": another has it.

        Raises:
            RedisError: nobody knows; or another of REDIS_LOST.
        """
        keys = (*keys_of(task_id), self._running, self._all)
        arguments = (task_id, token, self._lease_ms, self._keep_s)
        answer: bytes = await self._run(RENEW, keys, *arguments)
        return answer.decode()

    async def commit(self, task_id: str, token: int) -> str:
        """Decide that a task is published now: it cannot be cancelled any more, nor expire.

        Returns:
            "yours": do it; "lost": another worker has the task, or has published it; "expired",
            "ended": it has come to another end.

        Raises:
            RedisError: nobody knows; or another of REDIS_LOST.
        """
        keys = (keys_of(task_id)[0], task_id)
        answer: bytes = await self._run(COMMIT, keys, token, self._keep_s)
        if answer == b"ended":
            record = await self._redis.get(task_id)
            if record is not None and not decode_result(record).is_err:
                return "lost"
        return answer.decode()

    async def recall(self, task_id: str, token: int) -> None:
        """Nothing was published: it may be cancelled again. Else the next worker finds out."""
        with contextlib.suppress(*REDIS_LOST):
            await self._run(RECALL, keys_of(task_id)[:1], token)

    async def expire(self, task_id: str) -> bool:
        """Decide that a task expires; False: it is being published. Waits for Redis."""
        return bool(
            await until_answered(
                lambda: self._run(EXPIRE, keys_of(task_id)[:1], self._keep_s),
                f"whether {task_id} may expire",
            )
        )

    async def release(self, task_id: str, token: int, *, died: bool = False) -> None:
        """Let go of a task, perhaps for one who has died. A lease also ends by itself."""
        try:
            keys = (*keys_of(task_id), self._waiting, self._running)
            await self._run(RELEASE, keys, task_id, token, int(died))
        except REDIS_LOST as error:
            logger.info("the lease of task %s has to run out: %s", task_id, error)

    async def register(self, task_id: str, priority: int) -> None:
        """Let workers know of a task that waits, before its message comes to one."""
        keys = (keys_of(task_id)[0], self._waiting, self._all)
        await self._run(REGISTER, keys, task_id, priority, self._keep_s)

    async def sent(self, task_id: str) -> None:
        """The message of a registered task is in the queue; who sends it again need not."""
        await self._run(SENT, keys_of(task_id)[:1])

    async def forget(self, task_id: str) -> None:
        """Delete the record of a task that has ended."""
        await self._forget(task_id, "")

    async def withdraw(self, task_id: str) -> None:
        """Delete the record of a task that could not be sent, unless another did send it."""
        await self._forget(task_id, "unsent")

    async def sweep(self) -> None:
        """Forget all that have ended: Redis may have been away when somebody was to do it."""
        for task_id in await self._redis.smembers(self._all):
            await self._forget(task_id.decode(), "ended")

    async def _forget(self, task_id: str, condition: str) -> None:
        job, lease = keys_of(task_id)
        keys = (job, self._waiting, self._running, self._all, lease, task_id)
        await self._run(FORGET, keys, task_id, condition)

    async def pause(self, task_id: str) -> None:
        """Have a task stop at its next checkpoint, and wait; or not begin, if nobody has it yet."""
        job = keys_of(task_id)[0]
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(job, "want", "pause")
            pipe.expire(job, self._keep_s)
            await pipe.execute()
        await tell(self._redis, CONTROL, task_id)

    async def resume(self, task_id: str) -> tuple[int, bytes] | None:
        """Have a paused task go on.

        Returns:
            As `hand_on`: what continues it at once; None: it had not come to pause yet.
        """
        return await self._pass(RESUME, task_id)

    async def hand_on(self, task_id: str) -> tuple[int, bytes] | None:
        """A token and the message that shall carry it as its baton; None: somebody has the task.

        Once that is in the queue, `handed_on` is to be told; else it is done again.
        """
        return await self._pass(HAND_ON, task_id)

    async def _pass(self, script: str, task_id: str) -> tuple[int, bytes] | None:
        keys = (*keys_of(task_id), self._running)
        token, message = await self._run(script, keys, task_id, self._keep_s)
        return (token, message) if token else None

    async def overdue(self, grace_s: float) -> list[str]:
        """Tasks whose lease ran out longer ago than that: nobody goes on with them."""
        seconds, micros = await self._redis.time()
        before = seconds * 1000 + micros // 1000 - int(grace_s * 1000)
        found = await self._redis.zrangebyscore(self._running, 0, before)
        return [task_id.decode() for task_id in found]

    async def handed_on(self, task_id: str, token: int) -> None:
        """The message with this token is in the queue."""
        await self._run(HANDED_ON, (keys_of(task_id)[0], self._running), task_id, token)

    async def find(self, task_id: str) -> Job | None:
        """What is known of a task; None: nothing, as of one that has ended."""
        found = await self._redis.hgetall(keys_of(task_id)[0])
        return _job(task_id, found) if b"state" in found else None

    async def to_be_paused(self, task_id: str) -> bool:
        """Whether it was last told so; also if no worker has had it yet."""
        want: bytes | None = await self._redis.hget(keys_of(task_id)[0], "want")
        return want == b"pause"

    async def was_sent(self, task_id: str) -> bool:
        """Whether a message of a task that has not ended is, or was, in the queue."""
        return any(await self._redis.hmget(keys_of(task_id)[0], "sent", "message"))

    async def all(self) -> list[Job]:
        """Tasks that run, wait or are paused: those of highest priority first."""
        found = []
        for task_id in sorted(await self._redis.smembers(self._all)):
            job = await self.find(task_id.decode())
            if job is None:
                await self._redis.srem(self._all, task_id)  # it expired
            else:
                found.append(job)
        return sorted(found, key=lambda job: -job.priority)

    async def states(self) -> Counter[str]:
        """How many run, wait (`queued`) or are paused."""
        ids = await self._redis.smembers(self._all)
        async with self._redis.pipeline(transaction=False) as pipe:
            for task_id in ids:
                pipe.hget(keys_of(task_id.decode())[0], "state")
            states = await pipe.execute() if ids else []
        return Counter(state.decode() for state in states if state is not None)

    async def _run(self, script: str, keys: tuple[str, ...], *arguments: Any) -> Any:
        try:
            return await self._redis.register_script(script)(keys=keys, args=arguments)
        except ResponseError as error:
            await leave_replica(self._redis, error)
            raise


def _job(task_id: str, found: dict[bytes, bytes]) -> Job:
    return Job(
        task_id,
        found[b"state"].decode(),
        int(found.get(b"priority", 0)),
        int(found.get(b"slices", 0)),
        found.get(b"worker", b"").decode(),
        found.get(b"want") == b"pause",
    )
