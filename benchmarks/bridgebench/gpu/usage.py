"""What happens on a GPU meanwhile: memory and utilisation, sampled from nvidia-smi."""

import threading
from types import TracebackType
from typing import Self

from bridgebench.gpu.presence import Gpu, NoGpuError, find_gpus

_EVERY_S = 0.2


class Usage:
    """`with Usage(uuid) as usage: ...; usage.grown_mb, usage.utilisation`.

    Args:
        uuid: of the GPU, as nvidia-smi has it.
    """

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._samples: list[Gpu] = []
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="gpu-usage", daemon=True)

    @property
    def grown_mb(self) -> float | None:
        """How far memory rose above what it was at the beginning, in MiB; None: nobody knows."""
        used = [sample.used_mb for sample in self._samples if sample.used_mb is not None]
        if not used:
            return None if self._samples else 0.0
        return max(used) - used[0]

    @property
    def utilisation(self) -> float | None:
        """The highest share of time in which something ran, in percent; None: nobody knows."""
        found = [each.utilisation for each in self._samples if each.utilisation is not None]
        if not found:
            return None if self._samples else 0.0
        return max(found)

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
        self._samples += [gpu for gpu in found if gpu.uuid == self._uuid]
