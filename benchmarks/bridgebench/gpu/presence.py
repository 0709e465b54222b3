"""Whether an NVIDIA GPU answers here, and what is missing if not. The standard library only.

Run by its path, it prints the GPUs, or the reason and the remedy with exit code 2: `make gpu-check`
asks it before gigabytes are installed. So it does where the driver is too old for what these need.
"""

import csv
import shutil
import subprocess
import sys
from dataclasses import dataclass

EXIT_NO_GPU = 2
_FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "driver_version",
    "utilization.gpu",
    "memory.used",
)
_TIMEOUT_S = 60.0
_LEAST_DRIVER = 580  # of CUDA 13, for which the onnxruntime-gpu of constraints.txt is built


class NoGpuError(Exception):
    """No GPU answers; says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver sees it."""

    index: int
    uuid: str
    """"GPU-", and what CUDA calls so."""
    name: str
    memory_mb: float | None
    """In MiB, as nvidia-smi has it; so is `used_mb`. None: it does not tell, as with MIG."""
    driver: str
    utilisation: float | None
    """Percent of the last moments in which something ran on it; None as above."""
    used_mb: float | None

    @property
    def memory(self) -> str:
        """As a person reads it."""
        return "memory unknown" if self.memory_mb is None else f"{self.memory_mb:,.0f} MiB"


def find_gpus() -> list[Gpu]:
    """All GPUs that this machine, or this container, may use.

    Raises:
        NoGpuError: none.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        raise NoGpuError(
            "no NVIDIA GPU answers: there is no nvidia-smi. On the machine itself install NVIDIA's "
            "driver; in a container install nvidia-container-toolkit on the machine and start the "
            "container with --gpus all (compose: deploy.resources.reservations.devices)"
        )
    command = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(  # noqa: S603 - a fixed command
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise NoGpuError(
            f"nvidia-smi did not answer within {_TIMEOUT_S:g} s: the driver hangs; look at dmesg "
            f"for Xid errors, and restart the machine"
        ) from None
    said = (asked.stdout + asked.stderr).strip()
    if asked.returncode != 0:
        raise NoGpuError(
            f"no NVIDIA GPU answers: nvidia-smi says {said!r}. Install a driver that fits the "
            f"kernel, load it (modprobe nvidia) or restart; in a container give it the GPU with "
            f"--gpus all"
        )
    found = parse(asked.stdout)
    if not found:
        raise NoGpuError(
            "the NVIDIA driver is there, and shows no GPU: give this container one (--gpus all, "
            "NVIDIA_VISIBLE_DEVICES)"
        )
    return found


def parse(text: str) -> list[Gpu]:
    """GPUs from nvidia-smi's lines."""
    return [
        Gpu(int(row[0]), row[1], row[2], _number(row[3]), row[4], *map(_number, row[5:]))
        for row in csv.reader(text.splitlines(), skipinitialspace=True)
        if len(row) == len(_FIELDS)
    ]


def check_driver(gpu: Gpu) -> None:
    """See that the driver can do what is to be installed.

    Raises:
        NoGpuError: it is too old.
    """
    major = gpu.driver.partition(".")[0]
    if major.isdecimal() and int(major) < _LEAST_DRIVER:
        raise NoGpuError(
            f"the NVIDIA driver is {gpu.driver}, and onnxruntime-gpu needs CUDA 13, whose driver "
            f"is {_LEAST_DRIVER} or newer: install that on the machine itself, and restart"
        )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]", "[Not Supported]"
        return None


if __name__ == "__main__":
    try:
        for gpu in find_gpus():
            check_driver(gpu)
            print(f"GPU {gpu.index}: {gpu.name}, {gpu.memory}, driver {gpu.driver}")
    except NoGpuError as reason:
        print(reason, file=sys.stderr)
        sys.exit(EXIT_NO_GPU)
