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
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from bridge.errors import TrainingFailedError
from bridge.training.architectures import Network
from bridge.training.examples import Examples, Rows
from bridge.training.request import Hyperparameters

Progress = dict[str, Any]
Batch = tuple[torch.Tensor, torch.Tensor]

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
    """
    lightning.seed_everything(parameters.seed, workers=True, verbose=False)
    rows = len(examples.train.inputs)
    size = parameters.batch_size_for(rows)
    module = _Module(network, parameters, steps=_steps_an_epoch(rows, size) * parameters.epochs)
    watcher = _Watcher(parameters, rows, report)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=parameters.epochs,
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
        _loader(examples.train, size, shuffled_by=parameters.seed),
        _loader(examples.validation, _JUDGING_ROWS),
    )
    if watcher.best is not None:
        network.load_state_dict(watcher.best)
    network.cpu().eval()
    return {**_judge(network, examples), "epochs": trainer.current_epoch}


class _Module(lightning.LightningModule):
    """Loss, optimizer and schedule; the network knows the rest."""

    def __init__(self, network: Network, parameters: Hyperparameters, steps: int) -> None:
        super().__init__()
        self.network = network
        self.parameters_given = parameters
        self.steps = steps
        self.judged: list[tuple[float, float, int]] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        return self._loss(*batch)[0]

    def validation_step(self, batch: Batch, _: int) -> None:
        loss, right = self._loss(*batch)
        self.judged.append((float(loss), right, len(batch[0])))

    def configure_optimizers(self) -> Any:
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
        self.metric = ("accuracy", right) if module.network.classifies else ("mse", right)
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


class _Batches(torch.utils.data.Dataset[Batch]):
    """Takes a whole batch of rows at once: row by row costs more than small networks do."""

    def __init__(self, rows: Rows) -> None:
        self.inputs = torch.from_numpy(rows.inputs)
        self.targets = torch.from_numpy(rows.targets)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, indices: Any) -> Batch:
        return self.inputs[indices], self.targets[indices]


def _loader(rows: Rows, size: int, shuffled_by: int | None = None) -> "DataLoader[Batch]":
    batches = _Batches(rows)
    if shuffled_by is None:
        sampler = BatchSampler(SequentialSampler(batches), size, drop_last=False)
    else:
        order = RandomSampler(batches, generator=torch.Generator().manual_seed(shuffled_by))
        sampler = BatchSampler(order, size, drop_last=_drops_last(len(batches), size))
    return DataLoader(batches, sampler=sampler, batch_size=None)


def _drops_last(rows: int, size: int) -> bool:
    # Batch normalisation cannot learn from a single row.
    return rows > size and rows % size == 1


def _steps_an_epoch(rows: int, size: int) -> int:
    return math.ceil(rows / size) - _drops_last(rows, size)


def answers(network: Network, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
    """What callers will get for raw rows, a piece at a time."""
    with torch.inference_mode():
        for piece in torch.split(inputs, _JUDGING_ROWS):
            yield network.answer(piece)


def _judge(network: Network, examples: Examples) -> dict[str, float]:
    """Metrics of what callers will get, on the validation rows."""
    found = torch.cat(list(answers(network, torch.from_numpy(examples.validation.inputs))))
    wanted = torch.from_numpy(examples.validation.targets)
    if network.classifies:
        picked = found.gather(1, wanted[:, None]).clamp_min(torch.finfo(found.dtype).tiny)
        return {
            "accuracy": float((found.argmax(1) == wanted).float().mean()),
            "loss": float(-picked.log().mean()),
        }
    error = (found - wanted).double()
    spread = (wanted.double() - wanted.double().mean(0)).square().mean()
    mean_square = error.square().mean()
    return {
        "rmse": float(mean_square.sqrt()),
        "mae": float(error.abs().mean()),
        "r2": float(1 - mean_square / spread) if spread > 0 else 0.0,
        "loss": float(mean_square),
    }
