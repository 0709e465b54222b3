"""Optimizers and learning-rate schedules by name. Runs in the training process only.

All are torch's own; their state dicts are whole, so that a checkpoint goes on exactly.
"""

from collections.abc import Iterable

import torch
from torch.optim import lr_scheduler

from bridge.training.hyperparameters import Hyperparameters

_WARM_START = 0.04  # of the highest rate, as one-cycle begins


def make_optimizer(
    weights: Iterable[torch.nn.Parameter], parameters: Hyperparameters
) -> torch.optim.Optimizer:
    """The optimizer that the hyperparameters name."""
    if parameters.optimizer == "sgd":
        return torch.optim.SGD(
            weights,
            lr=parameters.learning_rate,
            momentum=parameters.sgd_momentum,
            weight_decay=parameters.weight_decay,
        )
    return torch.optim.AdamW(
        weights, lr=parameters.learning_rate, weight_decay=parameters.weight_decay
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, parameters: Hyperparameters, steps: int
) -> lr_scheduler.LRScheduler:
    """The schedule that the hyperparameters name, for so many optimizer steps in all."""
    warm = round(parameters.warmup * steps)
    if parameters.schedule == "one_cycle":
        share = parameters.warmup
        return lr_scheduler.OneCycleLR(
            optimizer,
            parameters.learning_rate,
            total_steps=steps,
            # A rise of exactly one step is a division by zero in torch.
            pct_start=0.0 if round(share * steps, 6) == 1 else share,
            cycle_momentum=parameters.optimizer == "adamw",  # of SGD the caller's stays
        )
    if parameters.schedule == "constant":
        return lr_scheduler.LinearLR(optimizer, _WARM_START if warm else 1.0, total_iters=warm)
    falling = lr_scheduler.CosineAnnealingLR(optimizer, max(steps - warm, 1))
    if not warm:
        return falling
    rising = lr_scheduler.LinearLR(optimizer, _WARM_START, total_iters=warm)
    return lr_scheduler.SequentialLR(optimizer, [rising, falling], [warm])
