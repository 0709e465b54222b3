"""The same trainings as a user writes them with Lightning alone: no queue, no slices, no bridge.

Run by its path, with one argument: a JSON object of `data` (a folder with train.npz and
validation.npz), `input`, `network` (see `NETWORKS`), `options`, `epochs`, `batch_size`, `seed`,
`checkpoints` (whether Lightning writes one after each epoch) and `weights` (the file to write).
Prints one JSON line: `train_s`, `accuracy`, `loss`.

Rows are picked a batch at a time from arrays: the fastest that can be written in a few lines.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

_JUDGED_AT_ONCE = 1024
_CLASSES = 10

Batch = tuple[torch.Tensor, torch.Tensor]


def mlp(shape: tuple[int, ...], hidden: list[int], dropout: float) -> nn.Module:
    """Layers with ReLU and dropout."""
    width, layers = int(np.prod(shape)), []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, _CLASSES))


def cnn(_: tuple[int, ...], channels: list[int], dropout: float) -> nn.Module:
    """Convolutions of grey images of 8 x 8, halved once."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8))]
    before = 1
    for number, size in enumerate(channels):
        if number == 1:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(before, size, 3, padding=1, bias=False), nn.BatchNorm2d(size)]
        layers.append(nn.ReLU())
        before = size
    pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, *pool, nn.Linear(before, _CLASSES))


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn}


class Batches:
    """Rows in batches; shuffled where there is a seed, in another order in each epoch."""

    def __init__(self, rows: Any, classes: Any, size: int, seed: int | None = None) -> None:
        self.rows, self.classes, self.size, self.seed = rows, classes, size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.size)

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(len(self.rows))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.rows))
        self.epoch += 1
        for start in range(0, len(order), self.size):
            picked = order[start : start + self.size]
            yield torch.from_numpy(self.rows[picked]), torch.from_numpy(self.classes[picked])


class Module(lightning.LightningModule):
    """Network, loss, AdamW, one cycle."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, network: nn.Module, rows: Any, steps: int) -> None:
        super().__init__()
        axis = (0,) if rows.ndim == 2 else None  # noqa: PLR2004 - a table: each number by itself
        exact = rows.astype(np.float64)
        self.network, self.steps, self.began = network, steps, 0.0
        self.register_buffer("mean", torch.from_numpy(np.asarray(exact.mean(axis))).float())
        self.register_buffer("scale", torch.from_numpy(np.asarray(exact.std(axis))).float())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits."""
        found: torch.Tensor = self.network((rows - self.mean) / self.scale)
        return found

    def on_train_start(self) -> None:
        """The clock starts where ours does."""
        self.began = time.monotonic()

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        """See `LightningModule`."""
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Batch, _: int) -> None:
        """See `LightningModule`."""
        found = self(batch[0])
        self.log("loss", nn.functional.cross_entropy(found, batch[1]), batch_size=len(found))
        right = (found.argmax(1) == batch[1]).float().mean()
        self.log("accuracy", right, batch_size=len(found))

    def configure_optimizers(self) -> Any:
        """See `LightningModule`."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.002, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, total_steps=self.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def main() -> None:
    """Train, judge, and write the weights."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    asked = json.loads(sys.argv[1])
    data, weights = Path(asked["data"]), Path(asked["weights"])
    with np.load(data / "train.npz") as train, np.load(data / "validation.npz") as validation:
        rows, classes = train[asked["input"]], train["target"]
        judged, right = validation[asked["input"]], validation["target"]
    lightning.seed_everything(asked["seed"], workers=True, verbose=False)
    network = NETWORKS[asked["network"]](rows.shape[1:], **asked["options"])
    batches = Batches(rows, classes, asked["batch_size"], asked["seed"])
    module = Module(network, rows, len(batches) * asked["epochs"])
    lightning.seed_everything(asked["seed"], workers=True, verbose=False)
    trainer = lightning.Trainer(
        max_epochs=asked["epochs"],
        logger=False,
        enable_checkpointing=asked["checkpoints"],
        callbacks=[ModelCheckpoint(weights.parent / "epochs")] if asked["checkpoints"] else None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=weights.parent,
    )
    trainer.fit(module, batches, Batches(judged, right, _JUDGED_AT_ONCE))
    train_s = time.monotonic() - module.began
    module.eval()
    with torch.inference_mode():
        found, wanted = module(torch.from_numpy(judged)), torch.from_numpy(right)
        loss = float(nn.functional.cross_entropy(found, wanted))
        accuracy = int((found.argmax(1) == wanted).sum()) / len(wanted)
    torch.save(module.state_dict(), weights)
    print(json.dumps({"train_s": train_s, "accuracy": accuracy, "loss": loss}), flush=True)


if __name__ == "__main__":
    main()
