"""Saves checkpoints while Lightning trains, and ends the slice. In the training process only.

A checkpoint is Lightning's own (weights, optimizer, schedule, loops, the feed's place in the data,
callbacks), and the random states, which this callback adds. It is written, synced and read back
before anybody hears of it.
"""

import logging
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from bridge.errors import CheckpointError
from bridge.training.checkpoints import digest

_LEAST_TIMES = 20.0  # writing may take a twentieth of the time

logger = logging.getLogger("bridge.training")


@dataclass(frozen=True, slots=True)
class Slices:
    """What the parent asks of one process, and where it hears of checkpoints."""

    folder: Path
    """For files."""
    saved: Callable[[dict[str, Any]], None]
    """Called with each checkpoint's facts: `file`, `step`, `epoch`, `sha256`, `bytes`, and
    `finished` where it is that of a trained network."""
    length_s: float = math.inf
    """After which the slice ends."""
    checkpoint_every_s: float = math.inf
    limit_s: float | None = None
    """Seconds that the training may take, over all slices."""
    resume: Path | None = None
    """A checkpoint to go on from."""
    finished: bool = False
    """It is that of a trained network."""
    stop: Callable[[], bool] = lambda: False
    """Whether the slice shall end now."""

    def save(self, network: torch.nn.Module, ended: dict[str, Any]) -> None:
        """Save a trained network: what comes next may fail, and need not be trained for again."""
        path = self.folder / "finished.ckpt"
        try:
            torch.save({"network": network.state_dict(), **ended}, path)
            facts = {"step": ended["step"], "epoch": ended["epochs"], "finished": True}
            self.saved({**_proven(path), **facts})
        except (OSError, RuntimeError) as error:  # torch's own error for a full disk
            path.unlink(missing_ok=True)
            logger.warning("the trained network was not saved: %s", error)


class SliceEnded(Exception):  # noqa: N818 - no error: the way out of Lightning's loops
    """The slice is over, and its last checkpoint is written."""


class Writer(TorchCheckpointIO):
    """Writes checkpoints where they shall lie, and nowhere else.

    Lightning's own makes each in memory, then in the system's folder for temporary files, which may
    be small, and moves it. Whether a file is whole is known here by reading it back.

    The first of several processes writes, and all meet after that: it may not stay away for an
    error, which is kept for `check`.
    """

    def __init__(self) -> None:
        """Nothing has failed yet."""
        super().__init__()
        self._failed: Exception | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """See `CheckpointIO`."""
        del storage_options
        try:
            torch.save(checkpoint, path)
        except (OSError, RuntimeError) as error:  # torch's own error for a full disk
            self._failed = error

    def check(self) -> None:
        """Raise what was kept of the last checkpoint, in the process that wrote it."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed


class Slicer(Callback):
    """Between two batches is where a training can be saved, and stopped."""

    def __init__(self, asked: Slices, writer: Writer) -> None:
        """Nothing is saved before training starts.

        Args:
            asked: when to save, and where.
            writer: the trainer's.
        """
        self._asked, self._writer = asked, writer
        self._random: dict[str, Any] | None = None
        self._cost_s = 0.0
        self._started = self._last = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """The random states, as Lightning saves them with a checkpoint."""
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002 - whatever else uses the global one
        return {
            "torch": torch.get_rng_state(),
            # Of this process's device alone: others may not be there where it goes on. A list, as
            # older versions read and wrote: these of each device.
            "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
            "python": random.getstate(),
            "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """They are set when training starts, as loading draws random numbers too."""
        self._random = state_dict

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """See `Callback`."""
        del trainer, pl_module
        self._started = self._last = time.monotonic()
        if self._random is None:
            return
        torch.set_rng_state(self._random["torch"])
        if torch.cuda.is_available() and self._random["cuda"]:
            torch.cuda.set_rng_state(self._random["cuda"][0])
        random.setstate(self._random["python"])
        kind, keys, *rest = self._random["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """See `Callback`."""
        del pl_module
        trainer.train_dataloader.set_epoch(trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """See `Callback`. The last batch of an epoch is followed by validation: not there."""
        del pl_module, outputs, batch
        last = batch_idx + 1 >= trainer.num_training_batches
        if not last and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """See `Callback`. Where training ends here, the network itself is kept, by `fit`."""
        del pl_module
        if not trainer.should_stop and trainer.current_epoch + 1 < trainer.max_epochs:
            self._look(trainer)

    def _look(self, trainer: Any) -> None:
        now = time.monotonic()
        over = now - self._started >= self._asked.length_s or self._asked.stop()
        due = now - self._last >= max(self._asked.checkpoint_every_s, self._cost_s * _LEAST_TIMES)
        if trainer.world_size > 1:  # several processes must agree
            over, due = trainer.strategy.broadcast((over, due))
        if over or due:
            try:
                self._save(trainer)
            except (OSError, RuntimeError) as error:  # torch's own error for a full disk
                if over:
                    raise CheckpointError(
                        f"cannot write a checkpoint into {self._asked.folder.parent}: {error}; "
                        "free room there, or set BRIDGE_WORK_ROOT to a local folder that has it"
                    ) from error
                logger.warning("no checkpoint, the one before it stays: %s", error)
            self._last = time.monotonic()
            self._cost_s = self._last - now
        if over:
            raise SliceEnded

    def _save(self, trainer: Any) -> None:
        path = self._asked.folder / f"step-{trainer.global_step}.ckpt"
        try:
            trainer.save_checkpoint(path, weights_only=False)
            self._writer.check()
            facts = _proven(path) if trainer.is_global_zero else {}
        except BaseException:  # half of one only takes the room that the next one needs
            path.unlink(missing_ok=True)
            raise
        if facts:
            self._asked.saved(
                {**facts, "step": trainer.global_step, "epoch": trainer.current_epoch}
            )


def _proven(path: Path) -> dict[str, Any]:
    """Bring a file to the disk, and read it back: its `file`, `sha256` and `bytes`."""
    with path.open("rb") as written:
        os.fsync(written.fileno())
    return {"file": path.name, "sha256": digest(path), "bytes": path.stat().st_size}
