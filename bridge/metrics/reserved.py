"""Files of counts whose room on the disk is there before they are written to.

The library's are mapped into memory, with holes: where a full disk has nothing to fill one with,
the kernel kills the process (SIGBUS), and each that is started in its place.
"""

import logging
import mmap
import os
from pathlib import Path
from typing import Any

from prometheus_client import mmap_dict

logger = logging.getLogger("bridge.metrics")

_FIRST_BYTES: int = mmap_dict._INITIAL_MMAP_SIZE  # noqa: SLF001 - the library makes a file as large
_FRAME_BYTES = 64  # of a value, beside its name; generously
_Base: Any = mmap_dict.MmapedDict


class ReservedFile(_Base):  # type: ignore[misc]  # the library's classes have no types
    """A process's counts of one kind. On a full disk they are in its memory, where nobody reads."""

    _f: Any
    _fname: Any
    _m: Any

    def __init__(self, filename: str, read_mode: bool = False) -> None:  # noqa: FBT001, FBT002 - the library's signature
        try:
            _reserve(filename, _FIRST_BYTES)
        except OSError as error:
            Path(filename).unlink(missing_ok=True)  # an empty one is none that can be read
            filename = f"/proc/self/fd/{_in_memory(filename, error)}"
        super().__init__(filename, read_mode)

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + _FRAME_BYTES > self._capacity:
            try:
                _reserve(self._fname, 2 * self._capacity)
            except OSError as error:
                self._f.close()
                self._f = os.fdopen(_in_memory(self._fname, error), "r+b")
                self._fname = f"/proc/self/fd/{self._f.fileno()}"
                self._f.write(self._m[: self._capacity])
                self._f.truncate(2 * self._capacity)
            self._capacity *= 2
            self._m = mmap.mmap(self._f.fileno(), self._capacity)
        super()._init_value(key)


def _reserve(filename: str, size: int) -> None:
    # Not opened to append, as the library's is: where a file system has no call for it (ext3, NFS),
    # the C library writes, which it refuses there.
    file = os.open(filename, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.posix_fallocate(file, 0, size)
    finally:
        os.close(file)


def _in_memory(filename: str, error: OSError) -> int:
    """A file that no disk has."""
    logger.error("%s cannot be had (%s): /metrics lacks what this process counts", filename, error)
    return os.memfd_create("counts")
