"""What is said of models: what one takes and gives, what it answered, what state it is in."""

from dataclasses import dataclass

from bridge.tensors import Tensor, TensorSpec

READY = "READY"
"""The state of a model version that is served, as Triton calls it."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What one model takes and gives. Shapes include the batch dimension, -1, if there is one."""

    name: str
    max_batch_size: int
    """Rows in one request; 0: the model has no batch dimension."""
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    mixable: bool = True
    """Rows of several callers may share a request: not so for a sequence's."""


@dataclass(slots=True)  # not frozen: one or more are made for each message
class InferReply:
    """One answer. `model_version` is the version that computed it."""

    model_name: str
    model_version: str
    outputs: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class ModelState:
    """One row of the repository's index; `state` is READY, LOADING, UNLOADING or UNAVAILABLE."""

    name: str
    version: str
    state: str
    reason: str

    @property
    def ready(self) -> bool:
        """It is served."""
        return self.state == READY
