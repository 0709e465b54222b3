"""What an exception of the training process means for its task. Loads no torch.

Enters: whatever ended a training. Leaves: the class of our tree, and what to do about it: out of
memory will not pass by itself, a device that failed may work in a new process, a full disk may
have room in a while. torch tells most of it in words only, so it is known by these.
"""

import errno
import re
from collections.abc import Iterator

from bridge.errors import (
    BridgeError,
    CheckpointError,
    DeviceFailedError,
    TrainingFailedError,
    TrainingMemoryError,
)

LESS_MEMORY = (
    "use a smaller hyperparameters.batch_size (hyperparameters.accumulate makes up for it) or a "
    "smaller network"
)

_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory"
    r"|(CUBLAS|CUDNN|CUSOLVER)_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_DEVICE = re.compile(
    r"(CUDA|HIP|NCCL)( driver| runtime)? error|device-side assert|no CUDA GPUs are available"
    r"|no CUDA-capable device|found no NVIDIA driver|CUDA driver version is insufficient"
    r"|(CUBLAS|CUDNN|CUSOLVER)_STATUS_",
    re.IGNORECASE,
)
_FULL = {errno.ENOSPC, errno.EDQUOT}


def told(error: Exception) -> tuple[type[BridgeError], str]:
    """The class of the tree for what ended a training, and what to say.

    An error of ours that another one caused, such as an export that found no memory, is of the
    other's class.
    """
    kind, advice = _meaning(error)
    text = str(error)
    if not isinstance(error, BridgeError):
        text = f"training stopped with {type(error).__name__}: {text}".rstrip(": ")
    return kind, f"{text}; {advice}" if advice else text


def _meaning(error: Exception) -> tuple[type[BridgeError], str]:
    causes = list(_causes(error))
    if any(isinstance(each, OSError) and each.errno in _FULL for each in causes):
        return CheckpointError, ""
    if any(map(_is_memory, causes)):
        return TrainingMemoryError, LESS_MEMORY
    if any(map(_is_device, causes)):
        return DeviceFailedError, "it is tried again in a new process"
    return (type(error), "") if isinstance(error, BridgeError) else (TrainingFailedError, "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what was behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, BridgeError):
        return isinstance(error, TrainingMemoryError)
    if isinstance(error, MemoryError) or _torchs(error, "OutOfMemoryError"):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and _MEMORY.search(str(error)) is not None


def _is_device(error: BaseException) -> bool:
    if isinstance(error, BridgeError):
        return isinstance(error, DeviceFailedError)
    if _torchs(error, "AcceleratorError"):
        return True
    # An AssertionError is how torch tells of a driver that is missing.
    known = isinstance(error, (RuntimeError, AssertionError))
    return known and _DEVICE.search(str(error)) is not None


def _torchs(error: BaseException, name: str) -> bool:
    """Whether an exception is of torch's class of this name, or of one below it."""
    return any(
        kind.__name__ == name and kind.__module__.partition(".")[0] == "torch"
        for kind in type(error).__mro__
    )
