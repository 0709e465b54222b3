"""What data are these? A hash of a dataset's content, and notes that spare reading it again.

Enters: a dataset's files. Leaves: SHA-256 over their names and bytes, the same wherever and
whenever they were laid there. Hashing reads every byte, so what was found is noted beside the
datasets, under a hidden name, with the size, times and inode of each file: while these stay, the
note holds. Where nothing can be written, nothing is noted.
"""

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.errors import DatasetError

RECORD = ".dataset.json"
"""In a folder that `add` made: hash, splits and columns of what it stored."""

_NOTES = ".notes"
_FORMAT = 1  # of notes; those of another format are not read
# A file that changes twice within a tick of its clock keeps its time: what was written to within
# this time is not noted.
_SETTLED_S = 2.0

Files = Mapping[str, Path]
"""Name within the dataset -> where it lies."""


def content_hash(files: Files) -> str:
    """`sha256:` and 64 hex digits, of names and bytes.

    Raises:
        DatasetError: a file cannot be read.
    """
    whole = hashlib.sha256()
    for name, path in sorted(files.items()):
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DatasetError(f"cannot read {name!r}: {error.strerror}") from error
        whole.update(json.dumps([name, digest]).encode())
    return f"sha256:{whole.hexdigest()}"


def stamp_of(files: Files) -> tuple[str, bool]:
    """A stamp that changes with any file's size, times or inode; and whether it can be relied on.

    Raises:
        DatasetError: a file is gone.
    """
    whole, newest = hashlib.sha256(), 0.0
    for name, path in sorted(files.items()):
        try:
            found = path.stat()
        except OSError as error:
            raise DatasetError(f"cannot read {name!r}: {error.strerror}") from error
        whole.update(
            json.dumps(
                [name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
            ).encode()
        )
        newest = max(newest, found.st_mtime, found.st_ctime)
    return whole.hexdigest(), time.time() - newest > _SETTLED_S


class Notes:
    """Remembers of each dataset under one root what it takes long to find out."""

    def __init__(self, root: Path) -> None:
        self._folder = root / _NOTES

    def read(self, dataset_id: str, stamp: str) -> dict[str, Any]:
        """What was noted while the files had this stamp; else nothing."""
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads((self._folder / f"{dataset_id}.json").read_text())
            if isinstance(noted, dict) and noted.get("key") == [_FORMAT, stamp]:
                return noted
        return {}

    def write(self, dataset_id: str, stamp: str, found: Mapping[str, Any]) -> None:
        """Note it, if the folder can be written to."""
        noted = {**self.read(dataset_id, stamp), **found, "key": [_FORMAT, stamp]}
        new = self._folder / f"{dataset_id}.{uuid.uuid4().hex[:12]}.new"
        try:
            self._folder.mkdir(exist_ok=True)
            new.write_text(json.dumps(noted))
            new.replace(self._folder / f"{dataset_id}.json")
        except OSError:  # read-only, or full: it will be found out again
            with contextlib.suppress(OSError):
                new.unlink()


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Lay beside the data what `add` stored."""
    (folder / RECORD).write_text(json.dumps(record, indent=2))


def recorded_hash(place: Path) -> str | None:
    """The hash that `add` recorded, if `add` made it.

    Raises:
        DatasetError: the record is damaged.
    """
    path = place / RECORD
    if not path.is_file() or path.is_symlink():
        return None
    try:
        return str(json.loads(path.read_text())["dataset_hash"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"its record {RECORD} is damaged; add the data anew") from error
