"""Loss, optimizer and learning-rate schedule of a training. Runs in the training process only.

Enters: a `Network` and `Hyperparameters`. Leaves: what Lightning's trainer needs to know.
"""

from typing import Any

import lightning
import torch
from torch import nn

from bridge.training.architectures import Network
from bridge.training.feed import Batch
from bridge.training.request import Hyperparameters


class Learner(lightning.LightningModule):
    """Loss, optimizer and schedule; the network knows the rest. The hooks are Lightning's own."""

    def __init__(self, network: Network, parameters: Hyperparameters, steps: int) -> None:
        super().__init__()
        self.network = network
        self.parameters_given = parameters
        self.steps = steps
        self.judged: list[tuple[float, float, int]] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        """See `LightningModule`."""
        return self._loss(*batch)[0]

    def validation_step(self, batch: Batch, _: int) -> None:
        """See `LightningModule`."""
        loss, right = self._loss(*batch)
        self.judged.append((float(loss), right, len(batch[0])))

    def configure_optimizers(self) -> Any:
        """See `LightningModule`."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.parameters_given.learning_rate,
            weight_decay=self.parameters_given.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.parameters_given.learning_rate, total_steps=self.steps
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _loss(self, rows: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Mean loss, and the share of right classes or the squared error."""
        outputs = self.network(rows)
        if self.network.classifies:
            loss = nn.functional.cross_entropy(outputs, targets)
            right = 0.0 if self.training else float((outputs.argmax(1) == targets).float().mean())
            return loss, right
        loss = nn.functional.mse_loss(outputs, self.network.normalised(targets))
        return loss, 0.0 if self.training else float(loss)
