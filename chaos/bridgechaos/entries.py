"""What was sent and what was found of it: what the ledger reads. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Want(Enum):
    """What a submission deserves."""

    SUCCESS = "success"
    MODEL_ERROR = "an error of its model"
    CRASH = "any error: it kills its model"
    SHAPE = "ShapeError"
    NO_MODEL = "UnknownModelError"
    NO_TASK = "a dead letter, and UnknownTaskError"
    NONSENSE = "a dead letter"
    NO_NETWORK = "InvalidTrainingRequestError"
    NO_DATA = "DatasetError"
    CANCELLED = "TaskCancelledError"
    EITHER = "a success, or TaskCancelledError: it may have ended when it was cancelled"

    @property
    def errors(self) -> frozenset[str] | None:
        """Classes of errors that it deserves; None: any."""
        return None if self is Want.CRASH else _DESERVED[self]

    @property
    def success(self) -> bool:
        """Whether it may succeed."""
        return self in {Want.SUCCESS, Want.EITHER}

    @property
    def letter(self) -> bool:
        """Whether it must lie in the dead-letter queue."""
        return self in {Want.NO_TASK, Want.NONSENSE}

    @property
    def record(self) -> bool:
        """Whether it must have a result."""
        return self is not Want.NONSENSE


_DESERVED: Mapping[Want, frozenset[str]] = {
    Want.SUCCESS: frozenset(),
    Want.MODEL_ERROR: frozenset({"InferenceFailedError"}),
    Want.SHAPE: frozenset({"ShapeError"}),
    Want.NO_MODEL: frozenset({"UnknownModelError"}),
    Want.NO_TASK: frozenset({"UnknownTaskError"}),
    Want.NONSENSE: frozenset(),
    Want.NO_NETWORK: frozenset({"InvalidTrainingRequestError"}),
    Want.NO_DATA: frozenset({"DatasetError"}),
    Want.CANCELLED: frozenset({"TaskCancelledError"}),
    Want.EITHER: frozenset({"TaskCancelledError"}),
}


@dataclass(frozen=True, slots=True)
class Found:
    """A result, as Redis has it, or as a caller was given it."""

    error: str = ""
    """Its class; "": success."""
    text: str = ""
    right: bool = True
    """A success that is what onnxruntime answers, or has a training's metrics."""
    version: str = ""
    """Of a training, `<model>/<version>`."""


@dataclass(slots=True)
class Entry:
    """One submission."""

    producer: str
    want: Want
    serials: tuple[int, ...]
    """Numbers of its rows."""
    task_id: str | None = None
    """None: its producer was never told."""
    confirmed: bool = False
    """RabbitMQ took it, and its producer knows."""
    why: str = ""
    """What its producer was told where it was not confirmed."""
    asked: str = ""
    """The model that it wants an answer of."""
    told: Found | None = None
    """How it ended, as its caller heard; None: he did not."""
    model: str = ""
    """Which it trains; "": it is no training."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What its training comes to where nobody disturbs it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found when all was over."""

    records: Mapping[str, Found]
    letters: Mapping[str, int]
    """Copies in the dead-letter queue, by id."""
    queues: Mapping[str, tuple[int, int]]
    """What still lies in every other queue: ready, unacknowledged."""
    waiting: frozenset[str] = frozenset()
    """Ids of what lies there: late, but not lost."""
    executions: Mapping[int, int] = field(default_factory=dict)
    """By row."""
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By task, the published versions whose cards name it."""
    left_over: Sequence[str] = ()
    """What trainings left behind: records, leases, processes; versions that nobody serves."""
