"""How good answers are, for each task. Runs in the training process only."""

from collections.abc import Callable

import torch

from bridge.training.request import Task

PROGRESS: dict[Task, str] = {"classification": "accuracy", "regression": "mse"}
"""The metric that a progress record has."""


def progress_value(task: Task, outputs: torch.Tensor, wanted: torch.Tensor) -> float:
    """That metric of one batch.

    Args:
        task: what is learned.
        outputs: what a `Network` gives [rows, outputs].
        wanted: what it should give, of `Network.wanted`.
    """
    if task == "classification":
        return float((outputs.argmax(1) == wanted).float().mean())
    return float((outputs - wanted).square().mean())


def judge(task: Task, found: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    """Metrics of what callers will get.

    Args:
        task: what is learned.
        found: answers [rows, outputs]: probabilities, or values in the target's unit.
        wanted: targets, as `Rows.targets` has them.

    Returns:
        `loss` (without class weights and smoothing), and `accuracy`; or `rmse`, `mae` and `r2`.
    """
    return _JUDGES[task](found, wanted)


def _classes(found: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    picked = found.gather(1, wanted[:, None]).clamp_min(torch.finfo(found.dtype).tiny)
    return {
        "accuracy": float((found.argmax(1) == wanted).float().mean()),
        "loss": float(-picked.log().mean()),
    }


def _values(found: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    error = (found - wanted).double()
    spread = (wanted.double() - wanted.double().mean(0)).square().mean()
    mean_square = error.square().mean()
    return {
        "rmse": float(mean_square.sqrt()),
        "mae": float(error.abs().mean()),
        "r2": float(1 - mean_square / spread) if spread > 0 else 0.0,
        "loss": float(mean_square),
    }


_JUDGES: dict[Task, Callable[[torch.Tensor, torch.Tensor], dict[str, float]]] = {
    "classification": _classes,
    "regression": _values,
}
