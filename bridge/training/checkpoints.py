"""Where the checkpoints of trainings are kept. The parent's side; no torch.

Enters: files that the training process wrote and read back. Leaves: the newest good one, for
whoever goes on. One folder for each task:

    <root>/jobs/<digest of the task's id>/<token>-<step>.ckpt    the state, as torch wrote it
    <root>/jobs/<digest of the task's id>/<token>-<step>.json    what it is; there once it is whole
    <root>/jobs/<digest of the task's id>/train.log              what the process printed

The name begins with the fencing token of who wrote it: who has lost the task can neither write over
what its successor wrote nor come before it.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.errors import CheckpointError, LeaseLostError
from bridge.repository.disk import sync

LOG = "train.log"

_NAME = re.compile(r"([0-9]{10})-([0-9]{12})\.json", re.ASCII)
_KEPT = 2  # the newest, and the one before it
_LOG_BYTES = 10 * 2**20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A training at one point, whole."""

    token: int
    path: Path
    facts: dict[str, Any]
    """`step`, `epoch`, `sha256`, `bytes`, `saved_at` (Unix time), `finished` (it is trained, and
    not yet exported), `request` (digest of what was asked for), `dataset_hash`."""


def job_folder(root: Path, task_id: str) -> Path:
    """Where a task's checkpoints and log lie. Its id, which can be any text, is hashed."""
    return root / "jobs" / hashlib.sha256(task_id.encode()).hexdigest()[:20]


class Checkpoints:
    """Of one task."""

    def __init__(self, root: Path, task_id: str, request: str) -> None:
        """Nothing is read or written yet.

        Args:
            root: of all tasks.
            task_id: any text.
            request: digest of what is asked for; checkpoints of another request are not ours.
        """
        self.folder = job_folder(root, task_id)
        self._request = request

    def floor(self) -> int:
        """The highest token that was ever written here."""
        return max((token for token, _, _ in self._listed()), default=0)

    async def newest(self) -> Checkpoint | None:
        """The newest that is whole; None: begin at the beginning."""
        return await asyncio.to_thread(self._newest)

    async def keep(self, token: int, file: Path, facts: dict[str, Any]) -> Checkpoint:
        """Take a file over, and let go of all but this and the one before it.

        Args:
            token: of who wrote it.
            file: on the same disk; it is moved.
            facts: as in `Checkpoint`, without `request` and `saved_at`.

        Raises:
            LeaseLostError: somebody with a newer token has written.
            CheckpointError: it cannot be kept here.
        """
        return await asyncio.to_thread(self._keep, token, file, facts)

    def drop(self) -> None:
        """Delete the checkpoints; the log stays until `clean` takes it."""
        for _, _, path in self._listed():
            _delete(path)

    def add_log(self, title: str, log: Path) -> None:
        """Keep what a slice printed, as far as the log is not full."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / LOG).open("ab") as kept, log.open("rb") as new:
                room = _LOG_BYTES - kept.tell()
                if room > 0:
                    kept.write(f"---- {title}\n".encode() + new.read(room))

    def _listed(self) -> list[tuple[int, int, Path]]:
        found = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for entry in self.folder.iterdir():
                match = _NAME.fullmatch(entry.name)
                if match:
                    found.append((int(match[1]), int(match[2]), entry.with_suffix(".ckpt")))
        return sorted(found, reverse=True)

    def _newest(self) -> Checkpoint | None:
        for token, _, path in self._listed():
            try:
                facts = json.loads(path.with_suffix(".json").read_bytes())
                if facts["request"] == self._request and facts["sha256"] == digest(path):
                    return Checkpoint(token, path, facts)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # half written when the power went, or deleted just now
        return None

    def _keep(self, token: int, file: Path, facts: dict[str, Any]) -> Checkpoint:
        if self.floor() > token:
            raise LeaseLostError("another worker has gone on with the training meanwhile")
        path = self.folder / f"{token:010}-{facts['step']:012}.ckpt"
        facts = {**facts, "request": self._request, "saved_at": time.time()}
        draft = path.with_suffix(".draft")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file.replace(path)
            draft.write_text(json.dumps(facts))
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.replace(path.with_suffix(".json"))
            sync(self.folder)
        except OSError as error:
            raise CheckpointError(
                f"cannot keep a checkpoint in {self.folder.parent}: {error.strerror or error}"
            ) from error
        for _, _, old in self._listed()[_KEPT:]:
            _delete(old)
        return Checkpoint(token, path, facts)


def clean(root: Path, keep_s: float) -> None:
    """Delete the folders of tasks of which nothing was heard for so long."""
    for folder in _folders(root):
        with contextlib.suppress(FileNotFoundError):
            newest = max(entry.stat().st_mtime for entry in (folder, *folder.iterdir()))
            if newest < time.time() - keep_s:
                shutil.rmtree(folder, ignore_errors=True)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folders(root: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield from (entry for entry in (root / "jobs").iterdir() if entry.is_dir())


def _delete(path: Path) -> None:
    for file in (path.with_suffix(".json"), path):  # without its facts it is none any more
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
