"""Checkpoints as files: `<root>/jobs/<task's room>/<name>`. No torch."""

import asyncio
import contextlib
import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.errors import CheckpointError
from bridge.repository.disk import sync
from bridge.training.checkpoint_store import Entry

_DRAFT = ".draft"


class CheckpointFolder:
    """As `CheckpointStore`. What is fetched is the store's own file."""

    def __init__(self, root: Path) -> None:
        """Nothing is read or written yet.

        Args:
            root: of all tasks; made when something is written.
        """
        self._jobs = root / "jobs"

    @property
    def shown(self) -> str:
        """As `CheckpointStore.shown`."""
        return str(self._jobs.parent)

    async def entries(self, job: str) -> list[Entry]:
        """As `CheckpointStore.entries`."""
        return await asyncio.to_thread(self._entries, job)

    async def jobs(self) -> dict[str, float]:
        """As `CheckpointStore.jobs`."""
        return await asyncio.to_thread(self._newest)

    async def read(self, job: str, name: str) -> bytes:
        """As `CheckpointStore.read`."""
        with self._translated("read"):
            return await asyncio.to_thread((self._jobs / job / name).read_bytes)

    async def fetch(self, job: str, name: str, into: Path) -> Path:  # noqa: ARG002 - the protocol's
        """As `CheckpointStore.fetch`; nothing is copied."""
        path = self._jobs / job / name
        with self._translated("read"):
            await asyncio.to_thread(path.stat)
        return path

    async def write(self, job: str, name: str, data: bytes) -> None:
        """As `CheckpointStore.write`."""
        await asyncio.to_thread(self._write, job, name, data)

    async def put(self, job: str, name: str, file: Path) -> None:
        """As `CheckpointStore.put`: moved, or copied from another disk."""
        await asyncio.to_thread(self._put, job, name, file)

    async def delete(self, job: str, names: list[str]) -> None:
        """As `CheckpointStore.delete`; the folder goes with its last file."""
        await asyncio.to_thread(self._delete, job, names)

    def _entries(self, job: str) -> list[Entry]:
        found = []
        with self._translated("list"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in (self._jobs / job).iterdir():
                with contextlib.suppress(FileNotFoundError):  # deleted just now
                    status = path.stat()
                    found.append(Entry(path.name, status.st_mtime, status.st_size))
        return found

    def _newest(self) -> dict[str, float]:
        found = {}
        with self._translated("list"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for folder in self._jobs.iterdir():
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    found[folder.name] = max(
                        entry.stat().st_mtime for entry in (folder, *folder.iterdir())
                    )
        return found

    def _write(self, job: str, name: str, data: bytes) -> None:
        draft = self._jobs / job / (name + _DRAFT)
        with self._translated("write"), _removed_if_it_fails(draft):
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            sync(draft)
            draft.replace(draft.with_name(name))
            sync(draft.parent)

    def _put(self, job: str, name: str, file: Path) -> None:
        path = self._jobs / job / name
        with self._translated("write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file.replace(path)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy(file, path)
            sync(path.parent)

    def _delete(self, job: str, names: list[str]) -> None:
        folder = self._jobs / job
        with self._translated("write"):
            for name in names:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    (folder / name).unlink()
        with contextlib.suppress(OSError):  # there is more, or there was nothing
            folder.rmdir()

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Let a reader's FileNotFoundError through, and nothing else of the system's."""
        try:
            yield
        except OSError as error:
            if what == "read" and isinstance(error, FileNotFoundError):
                raise
            raise CheckpointError(
                f"cannot {what} checkpoints in {self._jobs}: {error.strerror or error}; CHECKPOINT_"
                "ROOT must be a folder that can be written and has room"
            ) from error


def _copy(file: Path, path: Path) -> None:
    draft = path.with_name(path.name + _DRAFT)
    with _removed_if_it_fails(draft):
        shutil.copyfile(file, draft)
        sync(draft)
        draft.replace(path)


@contextmanager
def _removed_if_it_fails(draft: Path) -> Iterator[None]:
    """Half a file on a full disk would only take the room that the next one needs."""
    try:
        yield
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
