"""How good answers are, for each task. Runs in the training process only."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torchmetrics.functional.classification import (
    multilabel_accuracy,
    multilabel_exact_match,
    multilabel_f1_score,
)

from bridge.errors import InvalidTrainingRequestError, NotGoodEnoughError
from bridge.training.request import METRICS, Metric, Task

_ERRORS = ("loss", "rmse", "mae")

PROGRESS: dict[Task, str] = {
    "classification": "accuracy",
    "multi-label": "f1",
    "regression": "mse",
}
"""The metric that a progress record has."""


KEPT: dict[Task, str] = {"classification": "accuracy", "multi-label": "f1", "regression": "rmse"}
"""The metric that a variant of a network must keep."""


def progress_value(task: Task, outputs: torch.Tensor, wanted: torch.Tensor) -> float:
    """That metric of one batch.

    Args:
        task: what is learned.
        outputs: what a `Network` gives [rows, outputs].
        wanted: what it should give, of `Network.wanted`.
    """
    if task == "classification":
        return float((outputs.argmax(1) == wanted).float().mean())
    if task == "multi-label":
        # Probabilities, as numbers between 0 and 1 would be taken for such.
        found, flags = outputs.sigmoid(), wanted.long()
        return float(multilabel_f1_score(found, flags, wanted.shape[1], average="micro"))
    return float((outputs - wanted).square().mean())


def judge(task: Task, found: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    """Metrics of what callers will get.

    Args:
        task: what is learned.
        found: answers [rows, outputs]: probabilities, or values in the target's unit.
        wanted: targets, as `Rows.targets` has them.

    Returns:
        `loss` (without class weights and smoothing), and `accuracy`; or `f1` (over all labels
        of all rows), `exact_match` (share of rows) and `accuracy` (share of labels); or `rmse`,
        `mae` and `r2`.
    """
    return _JUDGES[task](found, wanted)


def check_required(task: Task, required: Mapping[Metric, float]) -> None:
    """See that what is required can be had, before hours are spent on it.

    Raises:
        InvalidTrainingRequestError: the task has no such metric.
    """
    strange = [name for name in required if name not in METRICS[task]]
    if strange:
        raise InvalidTrainingRequestError(
            f"model_config.require: {', '.join(strange)} is no metric of {task}, which has "
            f"{', '.join(METRICS[task])}"
        )


def check_good_enough(required: Mapping[Metric, float], found: Mapping[str, float]) -> None:
    """Compare a trained network's metrics with what is required.

    Args:
        required: the least of accuracy, F1, exact matches and R2; the most of errors and losses.
        found: metrics, as `judge` has them.

    Raises:
        NotGoodEnoughError: names each that falls short.
    """
    short = []
    for name, bound in required.items():
        if name in _ERRORS and not found[name] <= bound:
            short.append(f"{name} is {found[name]:.6g}, and {bound:g} is the most")
        elif name not in _ERRORS and not found[name] >= bound:
            short.append(f"{name} is {found[name]:.6g}, and {bound:g} is the least")
    if short:
        raise NotGoodEnoughError(
            f"nothing was published, as model_config.require says: {'; '.join(short)}"
        )


def lost(task: Task, before: dict[str, float], after: dict[str, float]) -> float:
    """How much worse `after` is by the task's metric in `KEPT`; negative where it is better.

    Of accuracy and F1 the difference, between 0 and 1; of `rmse` the rise in proportion to `before`
    (infinite where that was 0), as it is in the target's own unit.

    Args:
        task: what was learned.
        before: metrics of the network, as `judge` has them.
        after: metrics of its variant, on the same rows.
    """
    name = KEPT[task]
    if task != "regression":
        return before[name] - after[name]
    rise = after[name] - before[name]
    if before[name] > 0:
        return rise / before[name]
    return math.inf if rise > 0 else 0.0


def _classes(found: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    picked = found.gather(1, wanted[:, None]).clamp_min(torch.finfo(found.dtype).tiny)
    return {
        "accuracy": float((found.argmax(1) == wanted).float().mean()),
        "loss": float(-picked.log().mean()),
    }


def _flags(found: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    flags, labels = wanted.long(), wanted.shape[1]
    return {
        "f1": float(multilabel_f1_score(found, flags, labels, average="micro")),
        "exact_match": float(multilabel_exact_match(found, flags, labels)),
        "accuracy": float(multilabel_accuracy(found, flags, labels, average="micro")),
        "loss": float(nn.functional.binary_cross_entropy(found, wanted)),
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
    "multi-label": _flags,
    "regression": _values,
}
