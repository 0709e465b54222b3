"""What training makes small, for each task. Runs in the training process only.

Enters: a task, its training targets and `Hyperparameters`. Leaves: a loss of torch's own, from what
a `Network` gives and `Network.wanted` to a number.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from bridge.errors import InvalidTrainingRequestError
from bridge.tensors import Array
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.request import Task

_MOST_NAMES = 20
_SMALLEST = 1e-3  # where a label is set in every row


def make_loss(
    task: Task, targets: Array, labels: tuple[str, ...], parameters: Hyperparameters
) -> nn.Module:
    """The loss of a task.

    Args:
        task: what is learned.
        targets: of the training rows, as `Rows.targets` has them.
        labels: of the classes, in the order of their numbers; empty for regression.
        parameters: `class_weights` and `label_smoothing`.

    Raises:
        InvalidTrainingRequestError: they are not for this task, or name strange labels.
    """
    smoothing, weights = parameters.label_smoothing, parameters.class_weights
    if task == "regression":
        if weights is not None or smoothing:
            raise InvalidTrainingRequestError(
                "hyperparameters.class_weights and label_smoothing are for classes, and this task "
                "is regression"
            )
        return nn.MSELoss()
    weight = None
    if isinstance(weights, Mapping):
        weight = _by_label(weights, labels)
    elif weights == "balanced":
        weight = torch.from_numpy(_BALANCE[task](targets, len(labels)))
    if task == "multi-label":
        return _Flags(weight, smoothing)
    return nn.CrossEntropyLoss(weight, label_smoothing=smoothing)


def weight_of(loss: nn.Module, wanted: torch.Tensor) -> float:
    """What the loss of these rows counts for in a mean over several pieces' losses.

    Torch divides a loss with class weights by the sum of its rows' weights, not by their number.

    Args:
        loss: from `make_loss`.
        wanted: of `Network.wanted`, rows first.
    """
    if isinstance(loss, nn.CrossEntropyLoss) and loss.weight is not None:
        return float(loss.weight[wanted].sum())
    return float(len(wanted))


class _Flags(nn.Module):
    """Binary cross-entropy of each label; the weight is that of its ones."""

    def __init__(self, weight: torch.Tensor | None, smoothing: float) -> None:
        super().__init__()
        self.loss = nn.BCEWithLogitsLoss(pos_weight=weight)
        self.smoothing = smoothing

    def forward(self, outputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        smoothed = wanted * (1 - self.smoothing) + self.smoothing / 2
        loss: torch.Tensor = self.loss(outputs, smoothed)
        return loss


def _balanced_classes(targets: Array, classes: int) -> Array:
    """Every class counts the same in all: rows / (classes x rows of the class)."""
    counts = np.bincount(targets, minlength=classes)
    return (len(targets) / (classes * np.maximum(counts, 1))).astype(np.float32)


def _balanced_flags(targets: Array, labels: int) -> Array:
    """A label's ones count as much in all as its zeros."""
    ones = targets.sum(axis=0).reshape(labels)
    weights: Array = ((len(targets) - ones) / np.maximum(ones, 1)).astype(np.float32)
    return np.maximum(weights, _SMALLEST)


_BALANCE = {"classification": _balanced_classes, "multi-label": _balanced_flags}


def _by_label(weights: Mapping[str, float], labels: tuple[str, ...]) -> torch.Tensor:
    strange = sorted(weights.keys() - set(labels))
    if strange:
        raise InvalidTrainingRequestError(
            f"hyperparameters.class_weights: there are no labels "
            f"{', '.join(map(repr, strange[:_MOST_NAMES]))}; the dataset's are "
            f"{', '.join(map(repr, labels[:_MOST_NAMES]))}"
        )
    return torch.tensor([weights.get(label, 1.0) for label in labels])
