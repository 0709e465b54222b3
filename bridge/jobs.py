"""Long tasks in slices: who owns one, which of its messages counts, and what its people want.

Enters: a task's id and a worker's name. Leaves: a lease with a fencing token (a number that only
grows; Kleppmann, "How to do distributed locking", 2016), for as long as it is renewed.

A long task is one message at a time: each slice ends with a message that continues it. A crash
between two steps may leave several. Each carries the token under which it was written (its baton;
0: the caller's own), and only two are good: the one that was claimed last, again, and the one that
was written under the newest token. All others are stale and are dropped, so that no crash makes two
of one task. Keys in Redis, by task id:

    bridge:job:<id>        hash: fence, baton, state, want, priority, slices, worker, message
    bridge:lease:<id>      the token of who trains it now, with an expiry

and, by queue:

    bridge:jobs:<queue>            set: all ids
    bridge:jobs:<queue>:waiting    sorted set: ids by priority
    bridge:jobs:<queue>:running    sorted set: ids by when their lease ends, Unix milliseconds
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from redis.asyncio import Redis

from bridge.channels import REDIS_LOST, tell

CONTROL = "bridge:control"
"""Channel on which a task's id says that somebody wants something of it."""

_AGAIN_S = 1.0
_LEAST_KEPT_S = 30 * 86_400  # a task that waits for its turn, however long the queue, is not lost

# KEYS: job, lease, waiting, running, all. ARGV: id, baton, floor, lease ms, priority, worker,
# message, seconds to keep.
_CLAIM = """
local job, lease, waiting, running = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, baton, priority = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local fence = tonumber(redis.call('HGET', job, 'fence') or '0')
local known = redis.call('HGET', job, 'baton')
if known and baton ~= tonumber(known) and baton ~= fence then return {'stale', 0, 0} end
local left = redis.call('PTTL', lease)
if left > 0 then return {'held', left, 0} end
redis.call('HSET', job, 'priority', ARGV[5], 'message', ARGV[7])
redis.call('EXPIRE', job, ARGV[8])
redis.call('SADD', KEYS[5], id)
if redis.call('HGET', job, 'want') == 'pause' then
  redis.call('HSET', job, 'state', 'paused')
  redis.call('PERSIST', job)
  redis.call('ZREM', waiting, id)
  return {'paused', 0, 0}
end
local top = redis.call('ZREVRANGE', waiting, 0, 0, 'WITHSCORES')
if top[1] and top[1] ~= id and tonumber(top[2]) > priority then
  local other = redis.call('HGET', 'bridge:job:' .. top[1], 'fence')
  local turn = top[1] .. ' ' .. (other or '0')
  if redis.call('EXISTS', 'bridge:job:' .. top[1]) == 0 then
    redis.call('ZREM', waiting, top[1])
  elseif redis.call('HGET', job, 'yielded') ~= turn then
    redis.call('HSET', job, 'yielded', turn, 'state', 'queued')
    redis.call('ZADD', waiting, priority, id)
    return {'yield', 0, 0}
  end
end
local token = math.max(fence, tonumber(ARGV[3])) + 1
local now = redis.call('TIME')
redis.call('SET', lease, token, 'PX', ARGV[4])
redis.call('HSET', job, 'fence', token, 'baton', baton, 'state', 'running', 'worker', ARGV[6])
redis.call('ZREM', waiting, id)
redis.call('ZADD', running, now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4], id)
return {'yours', token, redis.call('HINCRBY', job, 'slices', 1)}
"""
# KEYS: job, lease, running. ARGV: id, token, lease ms, seconds to keep. Also gives back a lease
# that ran out, as long as nobody took it.
_RENEW = """
local fence = redis.call('HGET', KEYS[1], 'fence')
if fence and fence ~= ARGV[2] then return 'lost' end
local now = redis.call('TIME')
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('HSET', KEYS[1], 'fence', ARGV[2], 'state', 'running')
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[3], now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[3], ARGV[1])
return redis.call('HGET', KEYS[1], 'want') or ''
"""
# KEYS: job, lease, waiting, running. ARGV: id, token.
_RELEASE = """
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'queued')
redis.call('ZADD', KEYS[3], redis.call('HGET', KEYS[1], 'priority') or 0, ARGV[1])
return 1
"""
# KEYS: job, lease. A new token for a message that takes the place of one that is lost, or late.
_HAND_ON = """
if redis.call('PTTL', KEYS[2]) > 0 then return {0, ''} end
local message = redis.call('HGET', KEYS[1], 'message')
if not message then return {0, ''} end
return {redis.call('HINCRBY', KEYS[1], 'fence', 1), message}
"""

logger = logging.getLogger("bridge.jobs")
Answer = Literal["yours", "held", "stale", "paused", "yield"]


class Claim(NamedTuple):
    """The answer to who wants to train a task."""

    answer: Answer
    """yours; held by another for `number` ms; stale: this message does not count any more; paused;
    yield: a task of higher priority waits."""
    number: int = 0
    """The token, where it is yours."""
    slices: int = 0
    """How many there were, this one included."""


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

    async def claim(self, task_id: str, asking: Asking) -> Claim:
        """Ask for a task, whose id the caller has checked; a Redis that is away is waited for."""
        keys = (*_keys(task_id), self._waiting, self._running, self._all)
        arguments = (
            *(task_id, asking.baton, asking.floor, self._lease_ms, asking.priority),
            *(asking.worker, asking.message, self._keep_s),
        )
        while True:
            try:
                answer, number, slices = await self._run(_CLAIM, keys, *arguments)
                return Claim(answer.decode(), number, slices)
            except REDIS_LOST as error:
                logger.warning("cannot ask Redis who trains %s, trying again: %s", task_id, error)
                await asyncio.sleep(_AGAIN_S)

    async def renew(self, task_id: str, token: int) -> str:
        """Keep a task.

        Returns:
            What somebody wants: "pause" or ""; "lost": another has it.

        Raises:
            RedisError: nobody knows; or another of REDIS_LOST.
        """
        keys = (*_keys(task_id), self._running)
        arguments = (task_id, token, self._lease_ms, self._keep_s)
        answer: bytes = await self._run(_RENEW, keys, *arguments)
        return answer.decode()

    async def release(self, task_id: str, token: int) -> None:
        """Let go of a task. A lease also ends by itself."""
        try:
            keys = (*_keys(task_id), self._waiting, self._running)
            await self._run(_RELEASE, keys, task_id, token)
        except REDIS_LOST as error:
            logger.info("the lease of task %s has to run out: %s", task_id, error)

    async def register(self, task_id: str, priority: int) -> None:
        """Let workers know of a task that waits, before its message comes to one."""
        job = _keys(task_id)[0]
        if not await self._redis.hsetnx(job, "state", "queued"):
            return  # it was submitted before
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(job, "priority", str(priority))
            pipe.expire(job, self._keep_s)
            pipe.sadd(self._all, task_id)
            pipe.zadd(self._waiting, {task_id: priority})
            await pipe.execute()

    async def forget(self, task_id: str) -> None:
        """Delete the record of a task that has ended."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(_keys(task_id)[0])
            pipe.srem(self._all, task_id)
            pipe.zrem(self._waiting, task_id)
            pipe.zrem(self._running, task_id)
            await pipe.execute()

    async def pause(self, task_id: str) -> None:
        """Have a task stop at its next checkpoint, and wait."""
        job = _keys(task_id)[0]
        await self._redis.hset(job, "want", "pause")
        await self._redis.hsetnx(job, "state", "queued")  # of whom nobody has heard yet
        await self._redis.expire(job, self._keep_s)
        await self._redis.sadd(self._all, task_id)
        await tell(self._redis, CONTROL, task_id)

    async def resume(self, task_id: str) -> tuple[int, bytes] | None:
        """Have a paused task go on.

        Returns:
            As `hand_on`: what continues it at once; None: it had not come to pause yet.
        """
        job = _keys(task_id)[0]
        await self._redis.hdel(job, "want")
        if await self._redis.hget(job, "state") != b"paused":
            return None
        await self._redis.hset(job, "state", "queued")
        await self._redis.expire(job, self._keep_s)
        return await self.hand_on(task_id)

    async def hand_on(self, task_id: str) -> tuple[int, bytes] | None:
        """A token and the message that shall carry it as its baton; None: somebody has the task."""
        token, message = await self._run(_HAND_ON, _keys(task_id))
        return (token, message) if token else None

    async def overdue(self, grace_s: float) -> list[str]:
        """Tasks whose lease ran out longer ago than that: nobody goes on with them."""
        seconds, micros = await self._redis.time()
        before = seconds * 1000 + micros // 1000 - int(grace_s * 1000)
        found = await self._redis.zrangebyscore(self._running, 0, before)
        return [task_id.decode() for task_id in found]

    async def handed_on(self, task_id: str) -> None:
        """A message that continues the task is in the queue again."""
        await self._redis.zrem(self._running, task_id)

    async def find(self, task_id: str) -> Job | None:
        """What is known of a task; None: nothing, as of one that has ended."""
        found = await self._redis.hgetall(_keys(task_id)[0])
        return _job(task_id, found) if b"state" in found else None

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

    async def _run(self, script: str, keys: tuple[str, ...], *arguments: Any) -> Any:
        return await self._redis.register_script(script)(keys=keys, args=arguments)


def _keys(task_id: str) -> tuple[str, str]:
    return f"bridge:job:{task_id}", f"bridge:lease:{task_id}"


def _job(task_id: str, found: dict[bytes, bytes]) -> Job:
    return Job(
        task_id,
        found[b"state"].decode(),
        int(found.get(b"priority", 0)),
        int(found.get(b"slices", 0)),
        found.get(b"worker", b"").decode(),
        found.get(b"want") == b"pause",
    )
