"""How good answers are, for each task. Runs in the training process only."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from bridge.errors import InvalidTrainingRequestError, NotGoodEnoughError
from bridge.training.request import METRICS, Metric, Task

_ERRORS = ("loss", "rmse", "mae")

_SET = 0.5  # probability above which a label is answered

ROUNDING = 1e-6
"""So far metrics may be from what they are compared with: some are means of float32."""

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
        return _share(outputs.argmax(1) == wanted)
    if task == "multi-label":
        return _f1(outputs.sigmoid() > _SET, wanted > _SET)
    return float((outputs - wanted).square().mean())


def judge(task: Task, found: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    """Metrics of what callers will get.

    Args:
        task: what is learned.
        found: answers [rows, outputs]: probabilities, or values in the target's unit.
        wanted: targets, as `Rows.targets` has them.

    Returns:
        `loss` (without class weights and smoothing), and `accuracy`; or `f1` (over all labels
        of all rows), `exact_match` (share of rows) and `accuracy` (share of labels); or `rmse`
        and `mae` (over all values, each in its own unit) and `r2` (the mean of the values' own).
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
            What misses it by rounding alone is good enough.
        found: metrics, as `judge` has them.

    Raises:
        NotGoodEnoughError: names each that falls short.
    """
    short = []
    for name, bound in required.items():
        if name in _ERRORS and not found[name] <= bound + ROUNDING * abs(bound):
            short.append(f"{name} is {found[name]:.6g}, and {bound:g} is the most")
        elif name not in _ERRORS and not found[name] >= bound - ROUNDING:
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
        "accuracy": _share(found.argmax(1) == wanted),
        "loss": float(-picked.log().mean()),
    }


def _flags(found: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    answered, flags = found > _SET, wanted > _SET
    right = answered == flags
    return {
        "f1": _f1(answered, flags),
        "exact_match": _share(right.all(1)),
        "accuracy": _share(right),
        "loss": float(nn.functional.binary_cross_entropy(found, wanted)),
    }


def _values(found: torch.Tensor, wanted: torch.Tensor) -> dict[str, float]:
    error = (found - wanted).double()
    square = error.square().mean(0)
    spread = (wanted.double() - wanted.double().mean(0)).square().mean(0)
    return {
        "rmse": float(square.mean().sqrt()),
        "mae": float(error.abs().mean()),
        # Of each value by itself: the largest numbers would hide the others.
        "r2": float(torch.where(spread > 0, 1 - square / spread, 0.0).mean()),
        "loss": float(square.mean()),
    }


def _share(right: torch.Tensor) -> float:
    """Of booleans; not as float32, in which 9 of 10 are less than 0.9."""
    return int(right.sum()) / right.numel()


def _f1(answered: torch.Tensor, flags: torch.Tensor) -> float:
    """Over all labels of all rows; 0 where none is set and none was answered."""
    both, either = int((answered & flags).sum()), int(answered.sum() + flags.sum())
    return 2 * both / either if either else 0.0


_JUDGES: dict[Task, Callable[[torch.Tensor, torch.Tensor], dict[str, float]]] = {
    "classification": _classes,
    "multi-label": _flags,
    "regression": _values,
}
