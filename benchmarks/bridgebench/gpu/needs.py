"""Whether what is installed here can use the GPU that answers."""

import onnxruntime

from bridgebench.gpu.presence import Gpu, NoGpuError, find_gpus


def require_gpu() -> list[Gpu]:
    """The GPUs, where all that the check needs of them is there.

    Raises:
        NoGpuError: what is missing, and what to do.
    """
    found = find_gpus()
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
    return found
