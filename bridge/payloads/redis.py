"""Payloads in Redis, as plain values with an expiry of their own. The seam to redis-py."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from bridge.advice import PAYLOADS, redis_advice
from bridge.background import cancel_once
from bridge.channels import REDIS_LOST
from bridge.errors import PayloadMismatchError, PayloadStoreError, PayloadTooLargeError
from bridge.references import key_expires_at

_PREFIX = "bridge:payload:"
_MOST_BYTES = 512 * 2**20  # proto-max-bulk-len: a longer value ends the connection
_RETRIES = 3


class RedisStore:
    """Payloads under `bridge:payload:KEY`."""

    def __init__(self, url: str, shown: str, timeout_s: float) -> None:
        """Nothing is connected yet.

        Args:
            url: `redis://` or `rediss://`, with password and certificate files.
            shown: the same as a person may see it.
            timeout_s: for one read or write on the connection.
        """
        self._shown = shown
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=min(timeout_s, 5.0),
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.1), _RETRIES),
        )
        self._sending: dict[str, asyncio.Task[Any]] = {}

    async def put(self, key: str, data: bytes | memoryview) -> None:
        """As `Store.put`; a value has at most 512 MB, as Redis takes no longer one.

        Who is cancelled meanwhile leaves it going on: what was written to the connection comes
        there in any case, and `delete` has to come after it.
        """
        if len(data) > _MOST_BYTES:
            raise PayloadTooLargeError(
                f"{len(data):,} bytes; Redis keeps at most {_MOST_BYTES:,} in one value: name an "
                "S3 bucket or a shared folder in BRIDGE_PAYLOAD_URL"
            )
        ttl_s = max(1, int(key_expires_at(key) - time.time()))
        sending = asyncio.ensure_future(self._redis.set(_PREFIX + key, data, ex=ttl_s))
        self._sending[key] = sending
        sending.add_done_callback(lambda _: self._sending.pop(key))
        with self._translated():
            await asyncio.shield(sending)

    async def get(self, key: str, size: int) -> bytes | None:
        """As `Store.get`: asks for one byte more than there should be, and for no more."""
        with self._translated():
            data: Any = await self._redis.getrange(_PREFIX + key, 0, size)
        if not data:
            return None
        if len(data) != size:
            got = "more" if len(data) > size else f"{len(data):,}"
            raise PayloadMismatchError(
                f"the payload should have {size:,} bytes and has {got}; upload it again"
            )
        return bytes(data)

    async def delete(self, keys: Sequence[str]) -> None:
        """As `Store.delete`. The memory is given back in the background."""
        coming = {key: self._sending[key] for key in keys if key in self._sending}
        with self._translated():
            await self._redis.unlink(*[_PREFIX + key for key in keys])
            if coming:
                await asyncio.wait(coming.values())
                await self._redis.unlink(*[_PREFIX + key for key in coming])

    async def sweep(self, now: float) -> int:  # noqa: ARG002 - the protocol's
        """Nothing is left to do: Redis lets its values expire."""
        return 0

    async def close(self) -> None:
        """Close the connections."""
        await cancel_once(*self._sending.values())
        await self._redis.aclose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except REDIS_LOST as error:
            raise PayloadStoreError(
                f"cannot use the payload store {self._shown} ({type(error).__name__}: "
                f"{str(error)[:200]}); {redis_advice(error, self._shown, PAYLOADS)}"
            ) from None
