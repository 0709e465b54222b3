"""Lightning trains a network. Runs in the training process only.

Enters: `Examples` and a `Network`. Leaves: the trained network and its metrics; on the way a
progress record after each epoch, and each second within long ones.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from bridge.errors import InvalidTrainingRequestError, TrainingFailedError
from bridge.training.architectures import Network
from bridge.training.devices import place
from bridge.training.examples import Examples
from bridge.training.feed import Feed, batches_an_epoch
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.judging import PROGRESS, judge
from bridge.training.learner import Learner
from bridge.training.losses import make_loss

Progress = dict[str, Any]

_REPORT_EVERY_S = 1.0
_JUDGING_ROWS = 1024


def fit(
    network: Network,
    examples: Examples,
    parameters: Hyperparameters,
    folder: Path,
    report: Callable[[Progress], None],
) -> dict[str, float]:
    """Train `network` in place; afterwards it is on the CPU, in eval mode.

    Args:
        network: untrained, its weights already drawn from the seed.
        examples: rows to train on and to judge by.
        parameters: how.
        folder: for Lightning's own files.
        report: takes `{epoch, epochs, step, steps, loss, metric, value, samples_per_s,
            time_left_s}`; `metric` and `value` are None until validation rows were judged.

    Returns:
        Metrics on the validation rows: `loss`, and `accuracy` or `rmse`, `mae` and `r2`; and
        `epochs`, how many were trained.

    Raises:
        TrainingFailedError: the loss became NaN or infinite.
        InvalidTrainingRequestError: the hyperparameters do not suit the data or this machine.
    """
    lightning.seed_everything(parameters.seed, workers=True, verbose=False)
    rows = len(examples.train.inputs)
    size = parameters.batch_size_for(rows)
    here = place()
    steps = (
        math.ceil(batches_an_epoch(rows, size, here[1]) / parameters.accumulate) * parameters.epochs
    )
    loss = make_loss(network.task, examples.train.targets, examples.labels, parameters)
    module = Learner(network, parameters, loss, steps)
    watcher = _Watcher(parameters, rows, report)
    trainer = lightning.Trainer(
        accelerator="auto",
        max_epochs=parameters.epochs,
        **_trainer_options(parameters),
        callbacks=[watcher],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(
        module,
        Feed(examples.train, size, parameters.seed, here),
        Feed(examples.validation, _JUDGING_ROWS),
    )
    if watcher.best is not None:
        network.load_state_dict(watcher.best)
    network.cpu().eval()
    found = torch.cat(list(answers(network, torch.from_numpy(examples.validation.inputs))))
    wanted = torch.from_numpy(examples.validation.targets)
    return {**judge(network.task, found, wanted), "epochs": trainer.current_epoch}


def _trainer_options(parameters: Hyperparameters) -> dict[str, Any]:
    """What Lightning's trainer is told of the hyperparameters.

    Raises:
        InvalidTrainingRequestError: this machine cannot do it.
    """
    if parameters.precision == "16-mixed" and not torch.cuda.is_available():
        raise InvalidTrainingRequestError(
            'hyperparameters.precision "16-mixed" needs a CUDA GPU, and this training worker has '
            'none; use "bf16-mixed" or "32"'
        )
    return {
        "devices": parameters.devices,
        "strategy": "auto" if parameters.devices == 1 else "ddp",
        "precision": parameters.precision,
        "accumulate_grad_batches": parameters.accumulate,
        "gradient_clip_val": parameters.clip,
    }


class _Watcher(Callback):
    """Reports progress, stops early, keeps the best weights, refuses a loss that is no number."""

    def __init__(
        self, parameters: Hyperparameters, rows: int, report: Callable[[Progress], None]
    ) -> None:
        self.parameters, self.rows, self.report = parameters, rows, report
        self.best: dict[str, Any] | None = None
        self.best_loss, self.best_epoch = math.inf, 0
        self.metric: tuple[str | None, float | None] = (None, None)
        self.started = self.reported = time.monotonic()

    def on_train_start(self, trainer: Any, module: Any) -> None:
        del trainer, module
        self.started = self.reported = time.monotonic()

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del module, batch, batch_idx
        if time.monotonic() - self.reported >= _REPORT_EVERY_S:
            self._tell(trainer, float(outputs["loss"]))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        count = sum(rows for _, _, rows in module.judged)
        loss = sum(loss * rows for loss, _, rows in module.judged) / count
        right = sum(right * rows for _, right, rows in module.judged) / count
        module.judged.clear()
        if not math.isfinite(loss):
            raise TrainingFailedError(
                f"the loss is {loss} after epoch {trainer.current_epoch + 1}; lower "
                f"hyperparameters.learning_rate"
            )
        self.metric = (PROGRESS[module.network.task], right)
        self._tell(trainer, loss)
        if self.parameters.patience is None:
            return
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, trainer.current_epoch
            self.best = copy.deepcopy(module.network.state_dict())
        elif trainer.current_epoch - self.best_epoch >= self.parameters.patience:
            trainer.should_stop = True

    def _tell(self, trainer: Any, loss: float) -> None:
        self.reported = time.monotonic()
        seconds, step = max(self.reported - self.started, 1e-6), trainer.global_step
        steps = trainer.estimated_stepping_batches
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
                "samples_per_s": round(step / steps * self.parameters.epochs * self.rows / seconds),
                "time_left_s": round(seconds * (steps - step) / max(step, 1), 1),
            }
        )


def answers(network: Network, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
    """What callers will get for raw rows, a piece at a time."""
    with torch.inference_mode():
        for piece in torch.split(inputs, _JUDGING_ROWS):
            yield network.answer(piece)
