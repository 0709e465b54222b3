"""Watches Lightning train: reports, stops early, keeps the best weights. In the training process.

All that it knows goes into the checkpoints, so that a training in slices ends as one in one piece.
"""

import copy
import math
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import Callback

from bridge.errors import TrainingFailedError
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.judging import PROGRESS

Progress = dict[str, Any]

_REPORT_EVERY_S = 1.0
_CURVE_POINTS = 100


class Watcher(Callback):
    """Reports progress, stops early, keeps the best weights, refuses a loss that is no number."""

    def __init__(
        self,
        parameters: Hyperparameters,
        rows: int,
        limit_s: float | None,
        report: Callable[[Progress], None],
    ) -> None:
        """Nothing is told before training starts.

        Args:
            parameters: how it is trained.
            rows: in an epoch.
            limit_s: it may take so many seconds, over all slices; None: any.
            report: gets what `fit` documents.
        """
        self.parameters, self.rows, self.limit_s, self.report = parameters, rows, limit_s, report
        self.best: dict[str, Any] | None = None
        self.best_loss, self.best_epoch = math.inf, 0
        self.metric: tuple[str | None, float | None] = (None, None)
        self.curve: list[tuple[int, float, float]] = []
        self.before_s = 0.0
        self.first_step = 0
        self.started = self.reported = time.monotonic()

    @property
    def trained_s(self) -> float:
        """Seconds of training, in all slices."""
        return self.before_s + time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        """See `Callback`."""
        return {
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "metric": self.metric,
            "curve": self.curve,
            "trained_s": self.trained_s,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `Callback`."""
        self.best, self.best_loss = state_dict["best"], state_dict["best_loss"]
        self.best_epoch, self.metric = state_dict["best_epoch"], state_dict["metric"]
        self.curve, self.before_s = state_dict["curve"], state_dict["trained_s"]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """See `Callback`."""
        del pl_module
        self.first_step = trainer.global_step
        self.started = self.reported = time.monotonic()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See `Callback`."""
        del pl_module, batch, batch_idx
        if time.monotonic() - self.reported >= _REPORT_EVERY_S:
            self._tell(trainer, float(outputs["loss"]))
        if self.limit_s is not None and self.trained_s > self.limit_s:
            raise TrainingFailedError(
                f"the training has taken longer than the {self.limit_s:g} s that "
                f"BRIDGE_TRAINING_LIMIT_S allows; ask for fewer epochs"
            )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """See `Callback`."""
        judged = pl_module.judged
        weights, rows = (sum(piece[at] for piece in judged) for at in (1, 3))
        loss = sum(loss * weight for loss, weight, _, _ in judged) / weights
        right = sum(right * count for _, _, right, count in judged) / rows
        judged.clear()
        epoch = trainer.current_epoch
        if not math.isfinite(loss):
            raise TrainingFailedError(
                f"the loss is {loss} after epoch {epoch + 1}; lower hyperparameters.learning_rate"
            )
        self.metric = (PROGRESS[pl_module.network.task], right)
        self.curve.append((epoch + 1, loss, right))
        if len(self.curve) > _CURVE_POINTS:
            del self.curve[1::2]
        self._tell(trainer, loss)
        if self.parameters.patience is None:
            return
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, epoch
            self.best = copy.deepcopy(pl_module.network.state_dict())
        elif epoch - self.best_epoch >= self.parameters.patience:
            trainer.should_stop = True

    def _tell(self, trainer: Any, loss: float) -> None:
        self.reported = time.monotonic()
        seconds, step = max(self.reported - self.started, 1e-6), trainer.global_step
        steps = trainer.estimated_stepping_batches
        done = step - self.first_step  # in this slice, as `seconds` are
        name, value = self.metric
        self.report(
            {
                "epoch": trainer.current_epoch + 1,
                "epochs": self.parameters.epochs,
                "step": step,
                "steps": steps,
                "loss": loss if math.isfinite(loss) else None,
                "metric": name,
                "value": value,
                "samples_per_s": round(done / steps * self.parameters.epochs * self.rows / seconds),
                "time_left_s": round(seconds * (steps - step) / max(done, 1), 1),
                "curve": self.curve,
            }
        )
