"""Which checkpoint of a training counts, and for how long it is kept. The parent's side; no torch.

Enters: files that the training process wrote. Leaves: the newest good one, for whoever goes on, on
whichever machine. The store has one room for each task:

    jobs/<digest of the task's id>/<token>-<step>.ckpt    the state, as torch wrote it
    jobs/<digest of the task's id>/<token>-<step>.json    what it is; written once that is whole
    jobs/<digest of the task's id>/log-<when>.txt         what the process printed in one slice
    jobs/<digest of the task's id>/paused                 when somebody last thought of it

The name begins with the fencing token of who wrote it: who has lost the task can neither write over
what its successor wrote nor come before it.
"""

import asyncio
import hashlib
import json
import logging
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.errors import CheckpointError, LeaseLostError
from bridge.training.checkpoint_store import CheckpointStore, Entry

_NAME = re.compile(r"([0-9]{10})-([0-9]{12})\.(json|ckpt)", re.ASCII)
_LOG = re.compile(r"log-([0-9]{20})\.txt", re.ASCII)
_PAUSED = "paused"
_KEPT = 2  # the newest, and the one before it
_LOG_BYTES = 10 * 2**20
_LOG_S = 10.0  # for a log: nobody's work depends on it

log = logging.getLogger("bridge.training")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training at one point, whole."""

    token: int
    facts: dict[str, Any]
    """`step`, `epoch`, `sha256`, `bytes`, `saved_at` (Unix time), `finished` (it is trained, and
    not yet exported), `request` (digest of what was asked for), `dataset_hash`."""


@dataclass(frozen=True, slots=True, order=True)
class _Point:
    """Where in a training a file is from."""

    token: int
    step: int

    @property
    def facts(self) -> str:
        return f"{self.token:010}-{self.step:012}.json"

    @property
    def state(self) -> str:
        return f"{self.token:010}-{self.step:012}.ckpt"


def room(task_id: str) -> str:
    """The name of a task's room. Its id, which can be any text, is hashed."""
    return hashlib.sha256(task_id.encode()).hexdigest()[:20]


class Checkpoints:
    """Of one task."""

    def __init__(self, store: CheckpointStore, task_id: str, request: str) -> None:
        """Nothing is read or written yet.

        Args:
            store: of all tasks.
            task_id: any text.
            request: digest of what is asked for; checkpoints of another request are not ours.
        """
        self._store, self._room, self._request = store, room(task_id), request

    async def floor(self) -> int:
        """The highest token that was ever written here.

        Raises:
            CheckpointError: the store cannot be used; so too from all below.
        """
        points, _ = _sorted(await self._entries())
        return points[0].token if points else 0

    async def newest(self, into: Path) -> tuple[Checkpoint, Path] | None:
        """The newest that is whole, and its file; None: begin at the beginning.

        Args:
            into: a folder for a copy, where the store has no local files.
        """
        points, _ = _sorted(await self._entries())
        for point in points:
            try:
                facts = json.loads(await self._store.read(self._room, point.facts))
                if facts["request"] != self._request:
                    continue
                path = await self._store.fetch(self._room, point.state, into)
                if facts["sha256"] == await asyncio.to_thread(digest, path):
                    return Checkpoint(point.token, facts), path
            except (OSError, ValueError, KeyError, TypeError):
                pass  # half written when the power went, or deleted just now
            log.warning("checkpoint %s is damaged, the one before it is taken", point.facts)
        return None

    async def keep(self, token: int, file: Path, facts: dict[str, Any]) -> Checkpoint:
        """Take a file over, and let go of all but this and the one before it.

        Args:
            token: of who wrote it.
            file: local; gone once it is kept.
            facts: as in `Checkpoint`, without `request` and `saved_at`.

        Raises:
            LeaseLostError: somebody with a newer token has written.
            CheckpointError: it cannot be kept; the one before it still is there.
        """
        point = _Point(token, facts["step"])
        await self._refuse_if_late(token)
        facts = {**facts, "request": self._request, "saved_at": time.time()}
        try:
            await self._store.put(self._room, point.state, file)
            await self._refuse_if_late(token)  # it may have taken minutes
            await self._store.write(self._room, point.facts, json.dumps(facts).encode())
        except (CheckpointError, LeaseLostError):
            await self._forget([point.facts, point.state])
            raise
        await asyncio.to_thread(file.unlink, missing_ok=True)
        points, loose = _sorted(await self._entries())
        old = [name for old in points[_KEPT:] for name in (old.facts, old.state)]
        await self._forget(old + [each.state for each in loose if each < point])
        return Checkpoint(token, facts)

    async def drop(self) -> None:
        """Delete the checkpoints; logs, and what cannot be deleted, stay until `clean`."""
        try:
            names = [entry.name for entry in await self._entries() if not _LOG.match(entry.name)]
        except CheckpointError as error:
            log.warning("checkpoints of a training that has ended stay for a while: %s", error)
        else:
            await self._forget(sorted(names, reverse=True))  # of each point the facts first

    async def touch(self, keep_s: float) -> None:
        """Have `clean` know that somebody thinks of a training that writes nothing."""
        entries = await self._entries()
        heard = max((entry.modified for entry in entries), default=time.time())
        if heard < time.time() - keep_s / 4:
            await self._store.write(self._room, _PAUSED, b"")

    async def add_log(self, title: str, file: Path) -> None:
        """Keep what a slice printed, as far as logs are not full; or give up, and say so."""
        try:
            async with asyncio.timeout(_LOG_S):
                entries = await self._entries()
                left = _LOG_BYTES - sum(each.size for each in entries if _LOG.match(each.name))
                printed = _beginning(file, left)
                if printed is not None:
                    text = f"---- {title}\n".encode() + printed
                    await self._store.write(self._room, f"log-{time.time_ns():020}.txt", text)
        except (OSError, CheckpointError) as error:
            log.warning("the log of a slice is not kept: %s", str(error) or type(error).__name__)

    async def read_log(self) -> bytes | None:
        """What all slices printed, one after the other; None: none has ended."""
        names = sorted(each.name for each in await self._entries() if _LOG.match(each.name))
        if not names:
            return None
        return b"".join([await self._store.read(self._room, name) for name in names])

    async def _entries(self) -> list[Entry]:
        return await self._store.entries(self._room)

    async def _refuse_if_late(self, token: int) -> None:
        if await self.floor() > token:
            raise LeaseLostError("another worker has gone on with the training meanwhile")

    async def _forget(self, names: list[str]) -> None:
        """Delete; what stays is found by the next, or by `clean`."""
        try:
            await self._store.delete(self._room, names)
        except CheckpointError as error:
            log.warning("old checkpoints are not deleted: %s", error)


async def clean(store: CheckpointStore, keep_s: float, living: Collection[str] = ()) -> None:
    """Delete the rooms of tasks of which nothing was heard for so long.

    Args:
        store: of all tasks.
        keep_s: seconds.
        living: rooms of tasks that run, wait or are paused: they are kept in any case.

    Raises:
        CheckpointError: the store cannot be used.
    """
    for name, heard in (await store.jobs()).items():
        if heard < time.time() - keep_s and name not in living:
            await store.delete(name, [entry.name for entry in await store.entries(name)])


def _beginning(file: Path, most: int) -> bytes | None:
    """So many bytes of it; None: no process began it, or there is no room."""
    if most <= 0 or not file.exists():
        return None
    with file.open("rb") as printed:
        return printed.read(most)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sorted(entries: list[Entry]) -> tuple[list[_Point], list[_Point]]:
    """Points that have facts, newest first; and those with a state alone."""
    kinds: dict[str, set[_Point]] = {"json": set(), "ckpt": set()}
    for entry in entries:
        if match := _NAME.fullmatch(entry.name):
            kinds[match[3]].add(_Point(int(match[1]), int(match[2])))
    return sorted(kinds["json"], reverse=True), sorted(kinds["ckpt"] - kinds["json"])
