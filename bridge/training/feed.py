"""Rows in batches, in an order that seed and epoch give. Runs in the training process only.

Enters: one split's rows. Leaves: batches as tensors, from anywhere within an epoch: Lightning saves
and loads a loader that has `state_dict` and `load_state_dict` with its checkpoints.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bridge.errors import DatasetError
from bridge.tensors import Array
from bridge.training.examples import Rows

_FEWEST = 2

Batch = tuple[torch.Tensor, torch.Tensor]


class Feed:
    """Passes over rows, a whole batch at once: row by row costs more than small networks do."""

    def __init__(
        self, rows: Rows, size: int, seed: int | None = None, place: tuple[int, int] = (0, 1)
    ) -> None:
        """Nothing is read before the first batch.

        Args:
            rows: of one split.
            size: rows in a batch; the last batch of a pass may have fewer.
            seed: of the order of rows, which is another one in each epoch. None: as they lie.
            place: the number of this process among those that train together, and how many they
                are: each takes its share of every batch.
        """
        self._rows, self._size, self._seed = rows, size, seed
        self._rank, self._world = place
        count = len(rows.inputs)
        self._count = (
            math.ceil(count / size) if seed is None else batches_an_epoch(count, size, self._world)
        )
        self._epoch = self._done = 0
        self._resumed = False

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Batch]:
        if not self._resumed:
            self._done = 0
        self._resumed = False
        order = self._order()
        for index in range(self._done, self._count):
            start, end = index * self._size + self._rank, (index + 1) * self._size
            picked = order[start : end : self._world]
            self._done = index + 1
            yield (
                torch.from_numpy(self._rows.inputs[picked]),
                torch.from_numpy(self._rows.targets[picked]),
            )

    def set_epoch(self, epoch: int) -> None:
        """Which pass comes next; it has its own order."""
        if epoch != self._epoch:
            self._epoch, self._resumed = epoch, False

    def state_dict(self) -> dict[str, Any]:
        """Which epoch it is in, and how many of its batches it has given."""
        return {"epoch": self._epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._epoch, self._done = state["epoch"], state["done"]
        self._resumed = self._done < self._count

    def _order(self) -> Array:
        rows = len(self._rows.inputs)
        if self._seed is None:
            return np.arange(rows)
        return np.random.default_rng((self._seed, self._epoch)).permutation(rows)


def batches_an_epoch(rows: int, size: int, world: int = 1) -> int:
    """How many batches to train on; a last one of less than two rows for each process is left out.

    Batch normalisation cannot learn from a single row.

    Raises:
        DatasetError: there are not even two rows for each process.
    """
    if world > 1 and rows < _FEWEST * world:
        raise DatasetError(
            f"{rows} rows to train on cannot be shared by {world} devices: {_FEWEST} for each are "
            f"the least"
        )
    return math.ceil(rows / size) - (rows > size and 0 < rows % size < _FEWEST * world)
