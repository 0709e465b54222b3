"""The peak memory of this process and all that it started."""

import threading
from types import TracebackType
from typing import Self

import psutil

_EVERY_S = 0.5


class PeakMemory:
    """Samples the proportional set size of the process tree; shared pages count once.

    `with PeakMemory() as memory: ...; memory.peak_mb`. Linux gives the figure (`smaps_rollup`).
    """

    def __init__(self) -> None:
        self._peak_bytes = 0
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    @property
    def peak_mb(self) -> float:
        """The highest sum seen so far, in MB (10^6 bytes)."""
        return round(self._peak_bytes / 1e6, 1)

    def __enter__(self) -> Self:
        self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._sampler.join()

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(_EVERY_S):
            total = sum(_pss_bytes(process) for process in [own, *own.children(recursive=True)])
            self._peak_bytes = max(self._peak_bytes, total)


def _pss_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0  # ended since it was listed
