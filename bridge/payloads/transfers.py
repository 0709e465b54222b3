"""Moves tensors' bytes to and from the store: checked, side by side, within bounds.

Enters: bytes with the name of their tensor, and references. Leaves: references and tensors. Must
not know where the store is.
"""

import asyncio
import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from bridge.background import cancel_once
from bridge.errors import (
    PayloadError,
    PayloadMismatchError,
    PayloadMissingError,
    PayloadStoreError,
    PayloadTooLargeError,
)
from bridge.observer import SILENT, Observer
from bridge.payloads.stores import Store
from bridge.references import Reference, StoredTensor, new_key
from bridge.settings import Settings
from bridge.tensors import Tensor

logger = logging.getLogger("bridge.payloads")

Data = bytes | memoryview
T = TypeVar("T")

_AT_ONCE = 16  # transfers of one process
_DELETED_AT_ONCE = 1000  # what S3 takes in one request
_SWEEP_EVERY_S = 600.0
_CLOSE_S = 5.0


class Budget:
    """Bytes that may be held at a time; who comes first is served first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Wait for `size` bytes and hold them; more than there are, alone."""
        size = min(size, self._size)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((size, turn))
        self._serve()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._used -= size
            self._serve()

    def _serve(self) -> None:
        while self._line and (
            self._line[0][1].done() or self._used + self._line[0][0] <= self._size
        ):
            size, turn = self._line.popleft()
            if not turn.done():  # cancelled while it stood in line
                self._used += size
                turn.set_result(None)


class Payloads:
    """The door to the payload store. One for a process, made after any fork."""

    def __init__(self, store: Store, settings: Settings) -> None:
        """Nothing is connected yet.

        Args:
            store: where payloads are kept.
            settings: threshold, bounds and time to live.
        """
        self.threshold = settings.bridge_payload_threshold_bytes
        """A tensor with more bytes is worth a reference."""
        self.observer: Observer = SILENT
        self._store = store
        self._shown = settings.payload_shown
        self._ttl_s = settings.payload_ttl_s
        self._most = settings.bridge_payload_max_bytes
        self._timeout_s = settings.bridge_payload_timeout_s
        self._budget = Budget(settings.bridge_payload_memory_bytes)
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._unwanted: dict[str, None] = {}
        self._deleter: asyncio.Task[None] | None = None

    async def put(
        self,
        what: str,
        tensors: Mapping[str, tuple[str, tuple[int, ...], Data]],
        *,
        shared: bool = False,
    ) -> dict[str, StoredTensor]:
        """Upload tensors side by side: all of them, or none is left behind.

        Args:
            what: "input" or "output", for the errors.
            tensors: datatype, shape and bytes by name. The bytes are not copied: they must not
                change meanwhile.
            shared: they stay until they expire; otherwise they belong to one task.

        Raises:
            PayloadError: naming the tensor.
        """
        expires_at = int(time.time()) + self._ttl_s
        keys = {name: new_key(expires_at, shared=shared) for name in tensors}

        async def put_one(name: str) -> StoredTensor:
            datatype, shape, data = tensors[name]
            reference = await self._put(keys[name], data)
            return StoredTensor(datatype, shape, reference)

        try:
            stored = await _side_by_side(what, {name: put_one(name) for name in tensors})
        except BaseException:
            self.discard(keys.values())
            raise
        return stored

    async def get(
        self, what: str, stored: Mapping[str, StoredTensor], *, as_bytes: bool = False
    ) -> dict[str, Tensor]:
        """Download tensors side by side, and verify them.

        Args:
            what: "input" or "output", for the errors.
            stored: what the references say, by name.
            as_bytes: as gRPC needs it; otherwise the library's own memory, where it has some.

        Raises:
            PayloadError: naming the tensor.
            InvalidInputError: BYTES elements that do not fit the shape.
        """

        async def get_one(name: str, tensor: StoredTensor) -> Tensor:
            whole = as_bytes or tensor.datatype == "BYTES"
            return tensor.filled(name, await self._get(tensor.reference, as_bytes=whole))

        return await _side_by_side(what, {k: get_one(k, it) for k, it in stored.items()})

    @asynccontextmanager
    async def held(self, stored: Mapping[str, StoredTensor]) -> AsyncIterator[dict[str, Tensor]]:
        """Downloaded inputs, as bytes, while there is room for them in memory.

        A task takes its share for all its inputs at once: two that held a part each would wait
        for one another.

        Raises:
            PayloadError: naming the tensor.
            InvalidInputError: BYTES elements that do not fit the shape.
        """
        for name, tensor in stored.items():
            self._check_size(f"input {name!r}: ", tensor.reference.size)
        async with self._budget.hold(sum(it.reference.size for it in stored.values())):
            yield await self.get("input", stored, as_bytes=True)

    def discard(self, keys: Iterable[str]) -> None:
        """Delete payloads soon, many together. What cannot be deleted expires."""
        self._unwanted.update(dict.fromkeys(keys))
        if self._unwanted and (self._deleter is None or self._deleter.done()):
            self._deleter = asyncio.create_task(self._delete())

    async def sweep(self) -> int:
        """Delete what has expired, in stores that do not do so by themselves.

        Returns:
            How many payloads were deleted.

        Raises:
            PayloadStoreError: the store cannot be reached, or refuses us.
        """
        return await self._store.sweep(time.time())

    async def keep_swept(self) -> None:
        """Sweep every ten minutes or so, until cancelled."""
        while True:
            # Workers that started together need not all sweep at once.
            await asyncio.sleep(_SWEEP_EVERY_S * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                count = await self.sweep()
            except PayloadStoreError as error:
                logger.warning("could not sweep expired payloads: %s", error)
            else:
                logger.info("swept %d expired payloads from %s", count, self._shown)

    async def close(self) -> None:
        """Delete what is still to be deleted, within 5 seconds, and close the connections."""
        if self._deleter is not None:
            await asyncio.wait([self._deleter], timeout=_CLOSE_S)
            await cancel_once(self._deleter)
        await self._store.close()

    async def _put(self, key: str, data: Data) -> Reference:
        if len(data) > self._most:
            raise PayloadTooLargeError(
                f"{len(data):,} bytes; BRIDGE_PAYLOAD_MAX_BYTES allows {self._most:,}"
            )
        async with self._room:
            digest = await asyncio.to_thread(_sha256, data)
            await self._in_time(self._store.put(key, data))
        self.observer.stored("out", len(data))
        return Reference(key, len(data), digest)

    async def _get(self, reference: Reference, *, as_bytes: bool) -> Any:
        self._check_size("", reference.size)
        async with self._room:
            data = await self._in_time(self._store.get(reference.key, reference.size))
            if data is None:
                raise PayloadMissingError(self._why_missing(reference))
            # Hashing and copying take as long as the network: not on the event loop.
            digest, data = await asyncio.to_thread(_examined, data, as_bytes)
        self.observer.stored("in", reference.size)
        if digest != reference.sha256:
            raise PayloadMismatchError(
                "the payload's SHA-256 is not what the reference says: it was changed after it "
                "was uploaded; upload it again"
            )
        return data

    async def _in_time(self, transfer: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await transfer
        except TimeoutError:
            raise PayloadStoreError(
                f"the payload store {self._shown} took longer than {self._timeout_s:g} s "
                "(BRIDGE_PAYLOAD_TIMEOUT_S)"
            ) from None

    def _check_size(self, prefix: str, size: int) -> None:
        if size > self._most:
            raise PayloadTooLargeError(
                f"{prefix}the reference says {size:,} bytes; BRIDGE_PAYLOAD_MAX_BYTES allows "
                f"{self._most:,}"
            )

    def _why_missing(self, reference: Reference) -> str:
        late_s = time.time() - reference.expires_at
        if late_s > 0:
            return f"the payload expired {late_s:.0f} s ago (BRIDGE_PAYLOAD_TTL_S); upload it again"
        return (
            f"the payload is not in {self._shown}: its task has ended, or it was uploaded to "
            "another store (BRIDGE_PAYLOAD_URL must be the same for clients and workers)"
        )

    async def _delete(self) -> None:
        while self._unwanted:
            keys = list(self._unwanted)[:_DELETED_AT_ONCE]
            for key in keys:
                del self._unwanted[key]
            try:
                await self._in_time(self._store.delete(keys))
            except PayloadStoreError as error:
                logger.warning("%d payloads stay until they expire: %s", len(keys), error)


async def _side_by_side(what: str, jobs: Mapping[str, Coroutine[Any, Any, T]]) -> dict[str, T]:
    """Run all; the first failure cancels the others, and is raised with the name before it."""

    async def run(name: str, job: Coroutine[Any, Any, T]) -> T:
        try:
            return await job
        except PayloadError as error:
            raise type(error)(f"{what} {name!r}: {error}") from None

    tasks = [asyncio.create_task(run(name, job)) for name, job in jobs.items()]
    try:
        return dict(zip(jobs, await asyncio.gather(*tasks), strict=True))
    finally:
        await cancel_once(*tasks)
        tasks.clear()  # the error's frames are to hold neither it nor what the others brought


def _sha256(data: Data) -> str:
    return hashlib.sha256(data).hexdigest()


def _examined(data: Data, as_bytes: bool) -> tuple[str, Data]:  # noqa: FBT001 - called by to_thread
    return _sha256(data), bytes(data) if as_bytes else data
