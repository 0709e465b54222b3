"""How a training process ends tells what becomes of its task: no memory, or a bad device."""

import contextlib
import errno

import psutil
import pytest
import torch

from bridge.errors import (
    CheckpointError,
    DatasetError,
    DeviceFailedError,
    ExportError,
    Fate,
    MachineMemoryError,
    TrainingFailedError,
    TrainingMemoryError,
)
from bridge.training import room
from bridge.training.failures import LESS_MEMORY, told
from bridge.training.process import Listeners, Piece, train_in_process
from bridge.training.request import parse_request
from bridge.training.run import GOES_ON, Training, Turn

CUBLAS = "CUDA error: CUBLAS_STATUS_{} when calling `cublasCreate(handle)`"
DRIVER = "Found no NVIDIA driver on your system."


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), TrainingMemoryError),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), TrainingMemoryError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), TrainingMemoryError),
        (RuntimeError("CUDA error: out of memory"), TrainingMemoryError),
        (RuntimeError(CUBLAS.format("ALLOC_FAILED")), TrainingMemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), TrainingMemoryError),
        (torch.AcceleratorError("an illegal memory access"), DeviceFailedError),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceFailedError),
        (RuntimeError("CUDA error: unspecified launch failure"), DeviceFailedError),
        (RuntimeError("No CUDA GPUs are available"), DeviceFailedError),
        (RuntimeError(CUBLAS.format("EXECUTION_FAILED")), DeviceFailedError),
        (AssertionError(DRIVER), DeviceFailedError),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), TrainingFailedError),
        (ValueError("CUDA error: said by somebody else"), TrainingFailedError),
        (DatasetError("the column 'out of memory' is missing"), DatasetError),
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError),
        (OSError(errno.EACCES, "no"), TrainingFailedError),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, Exception) else value.__name__,
)
def test_each_end_has_its_class(error, kind):
    found, text = told(error)
    assert found is kind
    assert str(error) in text
    assert (LESS_MEMORY in text) == (kind is TrainingMemoryError)
    behind = ExportError("cannot export")
    behind.__cause__ = error
    expected = ExportError if kind in {TrainingFailedError, DatasetError} else kind
    assert told(behind)[0] is expected


def test_what_torch_says_of_too_large_a_tensor():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert told(caught.value)[0] is TrainingMemoryError


def test_what_is_worth_another_try():
    assert DeviceFailedError.fate is MachineMemoryError.fate is Fate.RETRY
    assert TrainingMemoryError.fate is Fate.FAIL
    assert issubclass(MachineMemoryError, GOES_ON)


async def ignore(*_):
    pass


@pytest.mark.usefixtures("architectures_of_a_user")
@pytest.mark.parametrize(
    ("how", "kind", "shown"),
    [
        ("memory", TrainingMemoryError, "training stopped with MemoryError; use a smaller"),
        ("gpu", DeviceFailedError, "an illegal memory access; it is tried again in a new process"),
    ],
)
async def test_the_process_says_which(settings, tmp_path, how, kind, shown):
    model = {"architecture": "failing", "options": {"how": how}}
    request = parse_request("few", model, {}, settings)
    listeners = Listeners(lambda _: None, ignore, ignore)
    with pytest.raises(kind, match=shown) as caught:
        await train_in_process(request, tmp_path, settings.dataset_root, Piece(), listeners)
    assert type(caught.value) is kind


async def test_a_kill_is_the_kernels_if_it_says_so(settings, fake_triton, tmp_path, monkeypatch):
    """The kernel's count is written by hand: a test must not take the machine's memory.

    Of a kill that it did not count: `test_slices.py`.
    """
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 7")

    async def kill(record):
        if record.get("checkpoint"):
            events.write_text("low 0\noom 3\noom_kill 8")
            for process in psutil.Process().children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "bridge.training.child" in process.cmdline():
                        process.kill()

    ours = settings.model_copy(update={"bridge_checkpoint_every_s": 0.1})
    request = parse_request("few", {"architecture": "cnn"}, {"epochs": 400}, ours)
    training = Training(request, "t", ours, fake_triton)
    with pytest.raises(MachineMemoryError, match=r"SIGKILL[^$]*had no memory left; use a smaller"):
        await training.go_on(Turn(), kill)
    assert training.progressed  # so that it goes on from there


def test_the_kernel_is_asked_for_this_container_first(monkeypatch, tmp_path):
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    monkeypatch.setattr(room, "_VMSTAT", tmp_path / "vmstat")
    assert room.kernel_kills() == 0
    (tmp_path / "vmstat").write_text("nr_free_pages 5\noom_kill 3\n")
    assert room.kernel_kills() == 3
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 1\n")
    assert room.kernel_kills() == 1
