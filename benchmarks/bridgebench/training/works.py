"""What is trained: the handwritten digits, and a larger job on generated rows.

Leaves: datasets on disk, from which both the bridge and the script by hand read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from bridge.tensors import Array

_SEED = 7
_FEATURES, _CLASSES = 512, 10
_JUDGED = 0.2  # share of the rows


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    digits_epochs: int = 180
    synthetic_rows: int = 20_000
    synthetic_epochs: int = 8
    short_slice_s: float = 8.0
    """The slices that show what one costs."""
    lease_s: float = 30.0
    """Of the trainings whose worker is killed; 30 is the default."""
    threads: int = 1
    """Of torch, in both ways. Several, which wait for each other, measure what else runs."""


@dataclass(frozen=True, slots=True)
class Work:
    """One training, as both ways are asked for it."""

    name: str
    """Of the dataset and the model."""
    title: str
    architecture: str
    input: str
    options: dict[str, Any]
    epochs: int
    batch_size: int

    @property
    def model_config(self) -> dict[str, Any]:
        """As `train_model` takes it."""
        return {"architecture": self.architecture, "input": self.input, "options": self.options}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """As `train_model` takes them."""
        return {"epochs": self.epochs, "batch_size": self.batch_size, "seed": _SEED}

    def by_hand(self, datasets: Path, weights: Path, *, checkpoints: bool) -> dict[str, Any]:
        """As `by_hand` takes it."""
        return {
            "data": str(datasets / self.name),
            "input": self.input,
            "network": self.architecture,
            "options": self.options,
            **self.hyperparameters,
            "checkpoints": checkpoints,
            "weights": str(weights),
        }


def digits(epochs: int) -> Work:
    """scikit-learn's digits, 8 x 8, and the default CNN."""
    options = {"channels": [16, 32, 64], "dropout": 0.2}
    return Work("digits", "digits, CNN", "cnn", "image", options, epochs, 64)


def synthetic(epochs: int) -> Work:
    """An MLP with 5.3 million weights, whose checkpoints have 63 MB."""
    options = {"hidden": [2048, 2048], "dropout": 0.1}
    return Work("synthetic", "synthetic, large MLP", "mlp", "features", options, epochs, 256)


def write_datasets(root: Path, sizes: Sizes) -> None:
    """Both datasets, split already."""
    bunch = load_digits()
    _write(root / "digits", "image", bunch.images.astype(np.float32), bunch.target)
    random = np.random.default_rng(_SEED)
    centres = random.standard_normal((_CLASSES, _FEATURES))
    classes = random.integers(0, _CLASSES, sizes.synthetic_rows)
    rows = 0.12 * centres[classes] + random.standard_normal((sizes.synthetic_rows, _FEATURES))
    _write(root / "synthetic", "features", rows.astype(np.float32), classes)


def _write(folder: Path, name: str, rows: Array, classes: Array) -> None:
    folder.mkdir(parents=True)
    order = np.random.default_rng(_SEED).permutation(len(rows))
    judged = round(len(rows) * _JUDGED)
    for split, picked in (("validation", order[:judged]), ("train", order[judged:])):
        columns = {name: rows[picked], "target": classes[picked].astype(np.int64)}
        np.savez(folder / f"{split}.npz", **columns)
