"""What can be set of trainings; part of `Settings`, which alone reads the environment."""

import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from bridge.settings.parts import LONGEST_S, PartSettings, folder

_PLACES = (
    "a folder, file:///folder or s3://bucket/prefix, without keys, which are set in "
    "BRIDGE_PAYLOAD_ACCESS_KEY and BRIDGE_PAYLOAD_SECRET_KEY"
)


class TrainingSettings(PartSettings):
    """Folders, and how trainings are cut into slices."""

    dataset_root: Path = Path("datasets")
    checkpoint_root: Path | str = Path("checkpoints")
    """A folder, also as `file:///folder`; or `s3://bucket/prefix`, which alone stays text."""
    bridge_work_root: Path | None = None
    """Where training processes work, on a local disk. Unset: in `checkpoint_root`, or, where that
    is no folder, in the system's folder for temporary files."""
    bridge_training_slice_s: float = Field(default=600.0, gt=0)
    """Seconds that a training may take at a time, before others have their turn. Well below
    RabbitMQ's `consumer_timeout`, 30 minutes by default."""
    bridge_checkpoint_every_s: float = Field(default=60.0, gt=0)
    """Seconds between checkpoints within a slice: what a crash may cost. Writing them never takes
    more than a twentieth of the time."""
    bridge_checkpoint_keep_s: int = Field(default=7 * 86_400, ge=1, le=LONGEST_S)
    """For how long the checkpoints of a training that ended badly are kept, and every log."""
    bridge_training_lease_s: float = Field(default=30.0, ge=1, le=LONGEST_S)
    """A training worker that is silent for so long has lost its task to another."""
    bridge_shared_gpu: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """A name for the GPU that Triton and training workers share, the same for inference and for
    training workers. Unset: training gives way to nobody."""
    bridge_latency_target_s: float | None = Field(default=None, gt=0)
    """Where nineteen of twenty requests to Triton take longer than so many seconds, training on
    the shared GPU saves and waits."""
    bridge_training_group: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """A name for the machines that train together: the same for one training worker and for its
    nodes (`mlbridge training-node`). Unset: trainings are for one machine."""
    bridge_training_address: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:-]{1,253}$")
    """Of a training worker in a group: its machine's name or IP, as nodes reach it."""
    bridge_training_nodes_wait_s: float = Field(default=120.0, gt=0)
    """For how long a training waits until enough nodes are free, before it is tried again later."""
    bridge_training_limit_s: float | None = Field(default=None, gt=0)
    """Seconds that one training may take, over all its slices. Unset: any."""
    bridge_training_memory_bytes: int | None = Field(default=None, ge=1)
    """Main memory that one training process may have. Unset: any."""
    bridge_training_threads: int | None = Field(default=None, ge=1)
    """With how many threads one training computes on processors; OMP_NUM_THREADS overrules it.
    Unset: its share of the processors, among the workers of its pool."""

    bridge_training_spare: bool = True
    """Keep a training process ready while none is needed, so that a training begins at once. It
    waits with torch loaded, in 0.4 GB of memory; where less than 2 GB are free, there is none."""

    @field_validator("dataset_root", "bridge_work_root", mode="before")
    @classmethod
    def _data_folder(cls, value: Any) -> Any:
        return folder(value)

    @field_validator("checkpoint_root", mode="before")
    @classmethod
    def _place(cls, value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith("s3://"):
            return folder(value, _PLACES)
        clear = not set("@?#") & set(value)  # keys do not belong here, as it is shown
        if urlsplit(value).netloc and clear:
            return value.rstrip("/")
        raise ValueError(f"must be {_PLACES}")

    @property
    def works_in_temp(self) -> bool:
        """Training processes work where everybody may write."""
        return self.bridge_work_root is None and isinstance(self.checkpoint_root, str)

    @property
    def work_root(self) -> Path:
        """The local folder for the files of training processes."""
        if self.bridge_work_root is not None:
            return self.bridge_work_root
        if isinstance(self.checkpoint_root, Path):
            return self.checkpoint_root
        return Path(tempfile.gettempdir()) / f"taskiq-triton-bridge-{os.getuid()}"
