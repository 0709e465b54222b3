"""What is trained in a run, and what each of it comes to when nobody disturbs it.

Leaves: small datasets, made on the spot; a request for each; its metrics, from one training in one
piece. A request is always the same, so that all trainings of it must end with these metrics.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bridge.settings import Settings
from bridge.training.process import Listeners, Piece, Plan, train_in_process
from bridge.training.request import parse_request
from bridgechaos.disk import mount, unmount

_MLP = {"architecture": "mlp", "options": {"hidden": [16]}}
_CNN = {"architecture": "cnn", "options": {"channels": [4, 8]}}

SLICES = {
    "BRIDGE_TRAINING_SLICE_S": "2",
    "BRIDGE_CHECKPOINT_EVERY_S": "0.5",
    "BRIDGE_TRAINING_LEASE_S": "3",
    "OMP_NUM_THREADS": "1",  # there are more processes than cores
}
"""Variables of training workers: as much happens in seconds as otherwise in hours."""

SLICE_S = float(SLICES["BRIDGE_TRAINING_SLICE_S"])
LEASE_S = float(SLICES["BRIDGE_TRAINING_LEASE_S"])


@dataclass(frozen=True, slots=True)
class Lesson:
    """One request."""

    dataset: str
    config: dict[str, Any]
    """`model_config` without `model_id`."""
    parameters: dict[str, Any]


LESSONS = (
    Lesson("classes", _MLP, {"epochs": 24, "batch_size": 8}),
    Lesson("pictures", _CNN, {"epochs": 6, "batch_size": 8}),
    Lesson("values", _MLP, {"epochs": 24, "batch_size": 8}),
)


class School:
    """Datasets, and a disk for checkpoints."""

    def __init__(self, folder: Path) -> None:
        """Write the datasets.

        Args:
            folder: an empty one.
        """
        self.datasets, self.checkpoints = folder / "datasets", folder / "checkpoints"
        self.datasets.mkdir()
        self.checkpoints.mkdir()
        self.no_small_disk = mount(self.checkpoints)
        """Why checkpoints have no small disk of their own; None: they have one."""
        self.metrics: dict[str, Mapping[str, float]] = {}
        """By dataset, what a training that nobody disturbs comes to; see `rehearse`."""
        self._folder = folder
        rng = np.random.default_rng(7)
        x = rng.standard_normal((400, 6)).astype(np.float32)
        np.savez(self.datasets / "classes.npz", features=x, target=(x[:, 0] * x[:, 1] > 0) * 1)
        np.savez(self.datasets / "values.npz", features=x, target=np.sin(x[:, 0]) + x[:, 1] / 2)
        images = rng.random((240, 8, 8)).astype(np.float32)
        brighter = images[:, :4].sum((1, 2)) > images[:, 4:].sum((1, 2))
        np.savez(self.datasets / "pictures.npz", image=images, target=brighter * 1)

    @property
    def variables(self) -> dict[str, str]:
        """Of training workers."""
        places = {"DATASET_ROOT": str(self.datasets), "CHECKPOINT_ROOT": str(self.checkpoints)}
        return SLICES | places

    async def rehearse(self) -> None:
        """Find the metrics out, unless they are known."""
        if not self.metrics:
            os.environ["OMP_NUM_THREADS"] = SLICES["OMP_NUM_THREADS"]  # as the workers have it
            for lesson in LESSONS:
                await self._rehearse(lesson)

    async def _rehearse(self, lesson: Lesson) -> None:
        settings = Settings().model_copy(update={"dataset_root": self.datasets})
        request = parse_request(lesson.dataset, lesson.config, lesson.parameters, settings)
        folder = self._folder / f"rehearsal-{lesson.dataset}"
        folder.mkdir()
        listeners = Listeners(_heard_plan, _heard, _heard)
        outcome = await train_in_process(request, folder, self.datasets, Piece(), listeners)
        if outcome is None:
            raise RuntimeError(f"the training of {lesson.dataset} did not come to its end")
        self.metrics[lesson.dataset] = outcome.result["metrics"]
        shutil.rmtree(folder)

    def close(self) -> None:
        """Take away the small disk, before the folder goes."""
        unmount(self.checkpoints)


def _heard_plan(plan: Plan) -> None:
    del plan


async def _heard(*report: Any) -> None:
    del report
