"""Training beside the same training by hand: what `benchmarks/train.py` measures.

`by_hand` alone imports torch, in a process of its own; nothing of the bridge is known to it.
"""

import functools

from bridgebench.scenarios import Scenario
from bridgebench.training import golive, overhead, recovery
from bridgebench.training.works import Sizes

PACKAGES = (
    "taskiq-triton-bridge",
    "torch",
    "lightning",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "numpy",
    "taskiq",
    "aio-pika",
    "redis",
    "nvidia-pytriton",
)
NAMES = tuple(module.NAME for module in (overhead, recovery, golive))


def scenarios(sizes: Sizes) -> dict[str, Scenario]:
    """By name, in order."""
    return {
        module.NAME: Scenario(module.TITLE, functools.partial(module.measure, sizes=sizes))
        for module in (overhead, recovery, golive)
    }


__all__ = ["NAMES", "PACKAGES", "Sizes", "scenarios"]
