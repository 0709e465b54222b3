"""Checkpoints as objects in S3 and its kind: `<prefix>/jobs/<task's room>/<name>`. No torch.

A seam to obstore, as `bridge.payloads.objects` is. An object appears whole or not at all, also if
it was uploaded in pieces. Short failures are bridged by the library, which tries again by itself.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore

from bridge.errors import CheckpointError, SettingsError
from bridge.payloads.objects import connect_s3
from bridge.settings import Settings
from bridge.training.checkpoint_store import Entry

RETRIES, RETRY_S = 10, 60.0
"""How often, and for how long at most, one request is tried again."""

_PIECE_BYTES = 16 * 2**20
_MOST_PIECES = 9000  # S3 takes 10,000
_AT_ONCE = 4  # pieces: memory for a few, beside the training
_REASON_CHARACTERS = 400
_MISSING = ("NoSuchBucket", "bucket does not exist")

logger = logging.getLogger("bridge.training")


class CheckpointBucket:
    """As `CheckpointStore`."""

    def __init__(self, store: ObjectStore, shown: str, secrets: tuple[str, ...] = ()) -> None:
        """Wrap a store of obstore's; nothing is connected yet.

        Args:
            store: with the prefix under which checkpoints lie.
            shown: its URL, as a person may see it.
            secrets: what must not be seen, should the server's answer hold it.
        """
        self._store, self._shown, self._secrets = store, shown, secrets

    @property
    def shown(self) -> str:
        """As `CheckpointStore.shown`."""
        return self._shown

    async def entries(self, job: str) -> list[Entry]:
        """As `CheckpointStore.entries`."""
        return [entry for room, entry in await self._list(f"jobs/{job}") if room == job]

    async def jobs(self) -> dict[str, float]:
        """As `CheckpointStore.jobs`."""
        found: dict[str, float] = {}
        for room, entry in await self._list("jobs"):
            found[room] = max(entry.modified, found.get(room, 0.0))
        return found

    async def read(self, job: str, name: str) -> bytes:
        """As `CheckpointStore.read`."""
        with self._translated():
            answer = await obstore.get_async(self._store, _path(job, name))
            return bytes(await answer.bytes_async())

    async def fetch(self, job: str, name: str, into: Path) -> Path:
        """As `CheckpointStore.fetch`, in pieces: none may take longer than a request may."""
        path, target = _path(job, name), into / name
        with self._translated():
            size = (await obstore.head_async(self._store, path))["size"]
        with _has_room(into), target.open("wb") as file:
            for first in range(0, size, _PIECE_BYTES * _AT_ONCE):
                starts = range(first, min(size, first + _PIECE_BYTES * _AT_ONCE), _PIECE_BYTES)
                with self._translated():
                    pieces = await obstore.get_ranges_async(
                        self._store,
                        path,
                        starts=list(starts),
                        lengths=[min(_PIECE_BYTES, size - start) for start in starts],
                    )
                file.writelines(pieces)
        return target

    async def write(self, job: str, name: str, data: bytes) -> None:
        """As `CheckpointStore.write`."""
        with self._translated():
            await obstore.put_async(self._store, _path(job, name), data)

    async def put(self, job: str, name: str, file: Path) -> None:
        """As `CheckpointStore.put`; the file stays."""
        with self._translated():
            size = (await asyncio.to_thread(file.stat)).st_size
            await obstore.put_async(
                self._store,
                _path(job, name),
                file,
                chunk_size=max(_PIECE_BYTES, size // _MOST_PIECES + 1),
                max_concurrency=_AT_ONCE,
            )

    async def delete(self, job: str, names: list[str]) -> None:
        """As `CheckpointStore.delete`."""
        for name in names:
            try:
                with self._translated():
                    await obstore.delete_async(self._store, _path(job, name))
            except FileNotFoundError:
                continue

    async def _list(self, folder: str) -> list[tuple[str, Entry]]:
        found = []
        with self._translated():
            async for page in obstore.list(self._store, folder, chunk_size=1000):
                for item in page:
                    match item["path"].split("/"):
                        case "jobs", room, name:
                            modified = item["last_modified"].timestamp()
                            found.append((room, Entry(name, modified, item["size"])))
        return found

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Let FileNotFoundError through where an object is not there, and nothing else."""
        try:
            yield
        except (BaseError, OSError) as error:
            text = str(error)
            for secret in self._secrets:
                text = text.replace(secret, "***")
            if isinstance(error, FileNotFoundError) and not any(sign in text for sign in _MISSING):
                raise
            logger.debug("the checkpoint store failed: %s", text)
            # The server's answer may have several lines; the library's own details come after it.
            reason = " ".join(text.partition("\n\nDebug")[0].split())[:_REASON_CHARACTERS]
            raise CheckpointError(
                f"cannot use the checkpoint store {self._shown} ({reason}); check CHECKPOINT_ROOT, "
                "that its bucket is there, and BRIDGE_PAYLOAD_ENDPOINT, _REGION, _ACCESS_KEY and "
                "_SECRET_KEY, which are for checkpoints too"
            ) from None


def open_bucket(url: str, settings: Settings) -> CheckpointBucket:
    """The bucket that a checked URL names.

    Raises:
        SettingsError: obstore cannot make a store of these settings.
    """
    keys = (settings.bridge_payload_access_key, settings.bridge_payload_secret_key)
    secrets = tuple(key.get_secret_value() for key in keys if key and key.get_secret_value())
    try:
        store = connect_s3(url, settings, retries=RETRIES, retry_for=timedelta(seconds=RETRY_S))
    except (BaseError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0][:_REASON_CHARACTERS]
        raise SettingsError(f"cannot use CHECKPOINT_ROOT {url}: {reason}") from None
    return CheckpointBucket(store, url, secrets)


@contextmanager
def _has_room(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"cannot write a checkpoint into the work folder {folder}: {error.strerror or error}; "
            "set BRIDGE_WORK_ROOT to a local folder with room"
        ) from None


def _path(job: str, name: str) -> str:
    return f"jobs/{job}/{name}"
