"""What happens on a GPU meanwhile: memory and utilisation, sampled from nvidia-smi."""

import threading
from types import TracebackType
from typing import Self

from bridgebench.gpu.presence import Gpu, NoGpuError, find_gpus

_EVERY_S = 0.2


class Usage:
    """`with Usage(index) as usage: ...; usage.grown_mb, usage.utilisation`.

    Args:
        index: of the GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self._samples: list[Gpu] = []
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="gpu-usage", daemon=True)

    @property
    def grown_mb(self) -> float:
        """How far memory rose above what it was at the beginning, in MiB."""
        used = [sample.used_mb for sample in self._samples]
        return max(used) - used[0] if used else 0.0

    @property
    def utilisation(self) -> float:
        """The highest share of time in which something ran, in percent."""
        return max((sample.utilisation for sample in self._samples), default=0.0)

    def __enter__(self) -> Self:
        self._look()
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
        while not self._stop.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        try:
            found = find_gpus()
        except NoGpuError:  # a moment's silence is no finding; no samples at all are
            return
        self._samples += [gpu for gpu in found if gpu.index == self._index]
