"""One training as Lightning sees it. Runs in the training process only.

Enters: a `Network`, its loss and `Hyperparameters`. Leaves: what Lightning's trainer needs to know.
All that changes in training lies in state dicts, so that Lightning's checkpoints go on exactly.
"""

from typing import Any

import lightning
import torch
from torch import nn

from bridge.errors import InvalidTrainingRequestError
from bridge.training.architectures import Network
from bridge.training.feed import Batch
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.judging import progress_value
from bridge.training.losses import weight_of
from bridge.training.schedules import make_optimizer, make_schedule


class Learner(lightning.LightningModule):
    """Network, loss, optimizer and schedule. The hooks are Lightning's own."""

    def __init__(
        self,
        network: Network,
        parameters: Hyperparameters,
        loss: nn.Module,
        steps: int,
        outputs: int,
    ) -> None:
        """Nothing is made before training begins.

        Args:
            network: to train.
            parameters: how.
            loss: from `make_loss`.
            steps: of the optimizer, in all.
            outputs: classes, or values, that it is to answer each row with.
        """
        super().__init__()
        self.network = network
        self.parameters_given = parameters
        self.loss = loss
        self.steps = steps
        self.outputs = outputs
        self.judged: list[tuple[float, float, float, int]] = []
        """Of each piece its loss, what that counts for, its progress value, and its rows."""

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        """See `LightningModule`."""
        rows, targets = batch
        loss: torch.Tensor = self.loss(self._answers(rows), self.network.wanted(targets))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """See `LightningModule`."""
        rows, targets = batch
        outputs, wanted = self._answers(rows).float(), self.network.wanted(targets)
        value = progress_value(self.network.task, outputs, wanted)
        loss, weight = float(self.loss(outputs, wanted)), weight_of(self.loss, wanted)
        self.judged.append((loss, weight, value, len(rows)))

    def _answers(self, rows: torch.Tensor) -> torch.Tensor:
        # Losses take another number of classes, and broadcast a value that lost its dimension.
        found: torch.Tensor = self.network(rows)
        if found.shape != (len(rows), self.outputs):
            raise InvalidTrainingRequestError(
                f"model_config.architecture: its network answers {len(rows)} rows with the shape "
                f"{list(found.shape)}, and must with [{len(rows)}, {self.outputs}]"
            )
        return found

    def configure_optimizers(self) -> Any:
        """See `LightningModule`."""
        learning = (weight for weight in self.network.parameters() if weight.requires_grad)
        optimizer = make_optimizer(learning, self.parameters_given)
        schedule = make_schedule(optimizer, self.parameters_given, self.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
