"""`hyperparameters` of a request: how a network is trained. No torch, no I/O.

Enters: JSON. Leaves: `Hyperparameters`, whose fields fit together. What depends on the data (labels
that `class_weights` names) or on the machine (`precision`) is checked by the training process.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

Precision = Annotated[
    Literal["32", "bf16-mixed", "16-mixed"],
    BeforeValidator(lambda value: "32" if type(value) is int and value == 32 else value),  # noqa: PLR2004
]
Label = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Weight = Annotated[float, Field(gt=0, le=1e6)]
# A problem is told of the one form that was meant, not of both.
ClassWeights = Annotated[
    Annotated[Literal["balanced"], Tag("word")] | Annotated[dict[Label, Weight], Tag("by_label")],
    Discriminator(lambda value: "by_label" if isinstance(value, Mapping) else "word"),
]

# Small tables need many steps to learn at all, large ones few enough to end.
_STEPS_AN_EPOCH = 20
_SMALLEST_BATCH, _LARGEST_BATCH = 8, 64

_SMALLEST_SHARE = 2  # rows of a batch for each device: batch normalisation needs two

_WARMUP = {"one_cycle": 0.3, "cosine": 0.0, "constant": 0.0}
_MOMENTUM = 0.9


class Hyperparameters(BaseModel):
    """Each field has a default; `docs/training.md` has them all in one table."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(default=15, ge=1, le=100_000)
    batch_size: int | None = Field(default=None, ge=_SMALLEST_SHARE, le=1_048_576)
    """Rows in a batch; by default 8 to 64, so that an epoch has 20 batches or more."""
    accumulate: int = Field(default=1, ge=1, le=65_536)
    """Batches whose gradients are gathered for one optimizer step."""
    devices: int = Field(default=1, ge=1, le=64)
    """Processes of a machine that train together, each on a GPU of its own where there are any."""
    num_nodes: int = Field(default=1, ge=1, le=64)
    """Machines that train together, each with so many `devices`."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0, le=10)
    """Highest rate of the schedule."""
    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Of `sgd`, 0.9 by default."""
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    warmup_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Share of the steps in which the rate rises; by default 0.3 of `one_cycle`, else none."""
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradients of one step; larger ones are scaled down to it."""
    precision: Precision = "32"
    """As Lightning's `Trainer` has it; weights are float32 always."""
    class_weights: ClassWeights | None = None
    """How much each class counts in the loss: in inverse proportion to its rows, or by label (1
    where a label is not named)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread over all classes."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Of the weights, the order of rows, and the split where the dataset has none."""
    validation_fraction: float = Field(default=0.2, gt=0, le=0.5)
    """Share of rows held back where the dataset has no validation split."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without a lower validation loss, and keep the best epoch's
    weights; by default train for all epochs and keep the last one's."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.momentum is not None and self.optimizer != "sgd":
            raise ValueError(f"'momentum' is of optimizer 'sgd', not of {self.optimizer!r}")
        if self.batch_size is not None and self.batch_size < _SMALLEST_SHARE * self.world:
            raise ValueError(
                f"'batch_size' {self.batch_size} is too small to be shared by {self.world} "
                f"'devices': {_SMALLEST_SHARE} rows for each are the least"
            )
        return self

    def batch_size_for(self, rows: int) -> int:
        """Rows in a batch, where there are so many rows to train on."""
        if self.batch_size is not None:
            return self.batch_size
        fitting = min(max(rows // _STEPS_AN_EPOCH, _SMALLEST_BATCH), _LARGEST_BATCH)
        return max(fitting, _SMALLEST_SHARE * self.world)

    @property
    def world(self) -> int:
        """Processes that train together, on all machines."""
        return self.devices * self.num_nodes

    @property
    def warmup(self) -> float:
        """`warmup_fraction`, or the schedule's own."""
        given = self.warmup_fraction
        return _WARMUP[self.schedule] if given is None else given

    @property
    def sgd_momentum(self) -> float:
        """`momentum`, or the default."""
        return _MOMENTUM if self.momentum is None else self.momentum
