"""Whether what is installed here can use the GPU that answers."""

import onnxruntime

from bridgebench.gpu.presence import Gpu, NoGpuError, check_driver, find_gpus


def first_of(gpus: list[Gpu]) -> Gpu | None:
    """The one that CUDA calls device 0, whatever CUDA_VISIBLE_DEVICES says.

    Returns:
        None: nvidia-smi does not list it, as with MIG.
    """
    import torch  # noqa: PLC0415 - takes seconds

    uuid = str(torch.cuda.get_device_properties(0).uuid)
    return next((gpu for gpu in gpus if gpu.uuid.removeprefix("GPU-") == uuid), None)


def require_gpu() -> list[Gpu]:
    """The GPUs, where all that the check needs of them is there.

    Raises:
        NoGpuError: what is missing, and what to do.
    """
    found = find_gpus()
    check_driver(found[0])
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise NoGpuError(
            "there is a GPU, and this onnxruntime has no CUDAExecutionProvider: it is the build "
            "for processors. `make gpu-check` makes an environment with the other one, .venv-gpu; "
            "by hand: pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    import torch  # noqa: PLC0415 - takes seconds

    if not torch.cuda.is_available():
        raise NoGpuError(
            f"there is a GPU, and torch {torch.__version__} does not see it: it is the build for "
            f"processors, or the driver ({found[0].driver}) is older than its CUDA "
            f"({torch.version.cuda}); see pytorch.org, Get started"
        )
    check_same_cuda(onnxruntime.cuda_version, torch.version.cuda)
    return found


def check_same_cuda(onnxruntimes: str, torchs: str | None) -> None:
    """See that both are built for one CUDA: one process loads cuDNN once.

    Args:
        onnxruntimes: for which `onnxruntime-gpu` is built: "13.0".
        torchs: for which torch is.

    Raises:
        NoGpuError: they are not.
    """
    wanted = onnxruntimes.partition(".")[0]
    if wanted != str(torchs).partition(".")[0]:
        raise NoGpuError(
            f"onnxruntime is built for CUDA {onnxruntimes}, and torch for {torchs}: install a "
            f"torch for CUDA {wanted}; see pytorch.org, Get started"
        )
