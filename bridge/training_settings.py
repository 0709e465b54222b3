"""What can be set of trainings; part of `Settings`, which alone reads the environment."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings


class TrainingSettings(BaseSettings):
    """Folders, and how trainings are cut into slices."""

    dataset_root: Path = Path("datasets")
    checkpoint_root: Path = Path("checkpoints")
    bridge_training_slice_s: float = Field(default=600.0, gt=0)
    """Seconds that a training may take at a time, before others have their turn. Well below
    RabbitMQ's `consumer_timeout`, 30 minutes by default."""
    bridge_checkpoint_every_s: float = Field(default=60.0, gt=0)
    """Seconds between checkpoints within a slice: what a crash may cost. Writing them never takes
    more than a twentieth of the time."""
    bridge_checkpoint_keep_s: int = Field(default=7 * 86_400, ge=1)
    """For how long the checkpoints of a training that ended badly are kept, and every log."""
    bridge_training_lease_s: float = Field(default=30.0, ge=1)
    """A training worker that is silent for so long has lost its task to another."""
    bridge_shared_gpu: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """A name for the GPU that Triton and training workers share, the same for inference and for
    training workers. Unset: training gives way to nobody."""
    bridge_latency_target_s: float | None = Field(default=None, gt=0)
    """Where nineteen of twenty requests to Triton take longer than so many seconds, training on
    the shared GPU saves and waits."""
    bridge_training_limit_s: float | None = Field(default=None, gt=0)
    """Seconds that one training may take, over all its slices. Unset: any."""
    bridge_training_memory_bytes: int | None = Field(default=None, ge=1)
    """Main memory that one training process may have. Unset: any."""
