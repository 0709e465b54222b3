"""How much room there is, in memory and on disk, and how much of it data may take. No torch.

The one place that decides whether rows are taken into memory or read a piece at a time.
"""

import contextlib
import resource
import shutil
from pathlib import Path

import psutil
from rich.filesize import decimal

from bridge.errors import DatasetError

_SHARE = 4  # of the free memory, rows take one part in so many: copies, weights, others need some
_SPARE_DISK_BYTES = 16 * 1024 * 1024
_CGROUP = Path("/sys/fs/cgroup")
_VMSTAT = Path("/proc/vmstat")


def most_in_memory() -> int:
    """Bytes up to which the input rows of a split are taken into memory, as float32."""
    return free_memory() // _SHARE


def free_memory() -> int:
    """Bytes that this process can still take: of the machine, its container and its own limits."""
    own = psutil.Process().memory_info()
    found = [int(psutil.virtual_memory().available), *_left_in_container()]
    for limit, used in ((resource.RLIMIT_DATA, own.data), (resource.RLIMIT_AS, own.vms)):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY:
            found.append(most - int(used))
    return max(0, min(found))


def _left_in_container() -> list[int]:
    with contextlib.suppress(OSError, ValueError):  # no cgroup of version 2, or "max": no limit
        most = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        lines = (line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        cached = {name: int(count) for name, count in lines}.get("inactive_file", 0)
        return [most - used + cached]
    return []


def kernel_kills() -> int:
    """How many processes the kernel has killed for their memory: in this container, else at all."""
    for path in (_CGROUP / "memory.events", _VMSTAT):
        with contextlib.suppress(OSError, ValueError):
            counts = dict(line.split() for line in path.read_text().splitlines())
            return int(counts.get("oom_kill", 0))
    return 0


def check_memory(needed: int, remedy: str) -> None:
    """Refuse what does not fit into the free memory, twice over.

    Raises:
        DatasetError: tells how much it takes, how much is free, and the remedy.
    """
    free = free_memory()
    if 2 * needed > free:  # once as it is read, once as numbers
        raise DatasetError(
            f"it takes about {decimal(needed)} of memory, twice, and {decimal(free)} are free; "
            f"{remedy}"
        )


def check_disk(folder: Path, next_bytes: int, needed: int) -> None:
    """Refuse to write what the disk has no room for.

    Args:
        folder: where it is written.
        next_bytes: about to be written.
        needed: by the whole, about; only told.

    Raises:
        DatasetError: tells how much is needed and how much is free.
    """
    if next_bytes + _SPARE_DISK_BYTES > free_disk(folder):
        free, spare = decimal(free_disk(folder)), decimal(_SPARE_DISK_BYTES)
        raise no_room(needed, f"{free} are free in {folder}, of which {spare} shall stay free")


def free_disk(folder: Path) -> int:
    """Bytes that can still be written there."""
    return shutil.disk_usage(folder).free


def no_room(needed: int, found: str) -> DatasetError:
    """The error of a disk that is too small; `found` says what there is."""
    return DatasetError(
        f"there is no room: it takes about {decimal(needed)} on disk, and {found}; nothing was kept"
    )
