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
    if weights == "balanced":
        weight = torch.from_numpy(_balanced(targets, len(labels)))
    elif isinstance(weights, Mapping):
        weight = _by_label(weights, labels)
    return nn.CrossEntropyLoss(weight, label_smoothing=smoothing)


def _balanced(targets: Array, classes: int) -> Array:
    """Every class counts the same in all: rows / (classes x rows of the class)."""
    counts = np.bincount(targets, minlength=classes)
    return (len(targets) / (classes * np.maximum(counts, 1))).astype(np.float32)


def _by_label(weights: Mapping[str, float], labels: tuple[str, ...]) -> torch.Tensor:
    strange = sorted(weights.keys() - set(labels))
    if strange:
        raise InvalidTrainingRequestError(
            f"hyperparameters.class_weights: there are no labels "
            f"{', '.join(map(repr, strange[:_MOST_NAMES]))}; the dataset's are "
            f"{', '.join(map(repr, labels[:_MOST_NAMES]))}"
        )
    return torch.tensor([weights.get(label, 1.0) for label in labels])
