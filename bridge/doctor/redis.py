"""Redis: whether it keeps what it confirmed; and what lies in the result store."""

import asyncio
import re
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from bridge.advice import redis_advice
from bridge.doctor.findings import Finding, finding, fine
from bridge.errors import BridgeError, QueueError
from bridge.overview import bounded
from bridge.settings import Settings

_NEARLY_FULL = 0.9
_MOST_KEYS = 20_000
_LOOK_S = 4.0
_PAGE = 500
_HEAD_BYTES = 2
_NAMED = 3
# Protocols 2 to 5 begin with PROTO and its number; older ones cannot be told from text.
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_OURS = b"bridge:"  # payloads may begin with anything


async def check_redis(settings: Settings) -> list[Finding]:
    """Reachability and authentication; eviction, memory and persistence."""
    async with Redis.from_url(settings.redis_connect_url) as redis:
        try:
            await bounded(redis.ping())
        except (RedisError, OSError, BridgeError) as error:
            advice = redis_advice(error, settings.redis_shown)
            return [finding("redis-unreachable", f"{settings.redis_shown}: {error}; {advice}")]
        try:
            info: dict[str, Any] = await bounded(redis.info())
        except NoPermissionError as error:
            return [finding("redis-not-inspectable", str(error))]
    found = [_eviction(info), _durability(info), *_memory(info)]
    if "err" in {info.get("rdb_last_bgsave_status"), info.get("aof_last_write_status")}:
        names = ("rdb_last_bgsave_status", "aof_last_write_status")
        told = [f"{name} is {info.get(name)}" for name in names]
        found.append(finding("redis-write-fails", ", ".join(told)))
    return [fine(f"Redis {info.get('redis_version')} at {settings.redis_shown}"), *found]


def _eviction(info: dict[str, Any]) -> Finding:
    policy = info.get("maxmemory_policy", "noeviction")
    told = f"maxmemory-policy is {policy}"
    if policy == "noeviction":
        return fine(told)
    return finding("redis-evicts" if info.get("maxmemory") else "redis-would-evict", told)


def _durability(info: dict[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        return fine("the append-only file is on")
    return finding("redis-not-durable", "appendonly is no")


def _memory(info: dict[str, Any]) -> list[Finding]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        return [finding("redis-unbounded", f"{used:,} bytes are used, of no maxmemory")]
    told = f"{used:,} of {most:,} bytes are used"
    return [finding("redis-nearly-full", told) if used > most * _NEARLY_FULL else fine(told)]


async def check_results(settings: Settings) -> list[Finding]:
    """Pickle in the result store, by the first bytes; nothing is unpickled."""
    async with Redis.from_url(settings.redis_connect_url) as redis:
        try:
            seen, pickled = await _look_for_pickle(redis)
        except NoPermissionError as error:
            return [finding("results-not-listable", str(error))]
        except RedisError as error:
            raise QueueError(f"Redis cannot be asked ({error})") from None
    if not pickled:
        return [fine(f"none of {seen} values looked at is pickled")]
    names = ", ".join(key.decode(errors="replace") for key in pickled[:_NAMED])
    more = "" if len(pickled) <= _NAMED else ", ..."
    return [finding("pickled-results", f"{len(pickled)} of {seen} values: {names}{more}")]


async def _look_for_pickle(redis: Redis) -> tuple[int, list[bytes]]:
    """How many values were looked at, and the keys of those that are pickled."""
    seen, pickled = 0, []
    ends = asyncio.get_running_loop().time() + _LOOK_S
    cursor: Any = 0
    while True:
        scanned: Any = await redis.scan(cursor, count=_PAGE, _type="string")
        cursor, keys = scanned[0], [key for key in scanned[1] if not key.startswith(_OURS)]
        pipe = redis.pipeline(transaction=False)
        for key in keys:
            pipe.getrange(key, 0, _HEAD_BYTES - 1)
        heads = await pipe.execute() if keys else []
        pickled += [key for key, head in zip(keys, heads, strict=True) if _PICKLE.match(head)]
        seen += len(keys)
        late = asyncio.get_running_loop().time() > ends
        if not int(cursor) or seen >= _MOST_KEYS or late:
            return seen, pickled
