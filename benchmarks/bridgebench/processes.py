"""What processes cost: CPU seconds and memory, of one and all that it started."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Memory:
    """In MB (10^6 bytes). `pss` counts a page that n processes share as 1/n."""

    rss_mb: float
    pss_mb: float


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and its descendants."""
    return [process, *process.children(recursive=True)]


def cpu_s(process: psutil.Process) -> float:
    """User and system time so far, of the tree; of those that ended, what was waited for."""
    total = 0.0
    for member in tree(process):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def cpu_with_ended_s(process: psutil.Process) -> float:
    """As `cpu_s`, with all that ended and was waited for, wherever in the tree."""
    total = 0.0
    for member in tree(process):
        try:
            total += sum(member.cpu_times()[:4])  # its own, and its children's that ended
        except psutil.NoSuchProcess:
            continue
    return total


def memory(process: psutil.Process) -> Memory:
    """Of one process alone."""
    info = process.memory_full_info()
    return Memory(info.rss / 1e6, info.pss / 1e6)


def tree_memory(process: psutil.Process) -> Memory:
    """Of the tree. The sum of `rss` counts shared pages several times."""
    each = [memory(member) for member in tree(process)]
    return Memory(sum(m.rss_mb for m in each), sum(m.pss_mb for m in each))
