"""Every error that this project raises on purpose, as one tree.

Each class carries its own fate: whether the task that met it fails for good, or is worth another
try; and the outcome that its task's record then has. A caller sees the class name and the text in
the task's result.
"""

from enum import Enum
from typing import ClassVar


class Fate(Enum):
    """What becomes of a message whose task met the error."""

    FAIL = "fail"
    """The task is finished: its result is this error."""
    RETRY = "retry"
    """The same message may succeed later: it comes back after a delay."""
    HAND_BACK = "hand back"
    """Nothing can be served now: the message goes back to its queue, which is not consumed."""


class Outcome(Enum):
    """How a task ended. Each task's terminal record has one of them."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    DEAD_LETTERED = "dead-lettered"


class BridgeError(Exception):
    """Root of the tree. `str(error)` is one sentence that says what to do."""

    fate: ClassVar[Fate] = Fate.FAIL
    outcome: ClassVar[Outcome] = Outcome.FAILED


class SettingsError(BridgeError):
    """An environment variable cannot be used as it is."""


class InvalidNameError(BridgeError):
    """A model's, dataset's or task's name has characters that it may not have."""


# ---- what a caller sent -----------------------------------------------------------------


class InvalidInputError(BridgeError):
    """The input does not fit the model. The subclasses say in which way."""


class MissingInputError(InvalidInputError):
    """An input that the model needs is not there."""


class SurplusInputError(InvalidInputError):
    """An input that the model does not have."""


class MalformedTensorError(InvalidInputError):
    """Not a nested list, nor `{"datatype", "shape", "data" or "raw" or "ref"}`."""


class MalformedReferenceError(MalformedTensorError):
    """A `ref` that no payload store could have given out."""


class RaggedInputError(InvalidInputError):
    """Rows of a nested list differ in length."""


class DatatypeError(InvalidInputError):
    """Values are of another kind than the model's datatype."""


class NotANumberError(DatatypeError):
    """NaN or infinity where the model wants an integer or a boolean."""


class ShapeError(InvalidInputError):
    """The shape does not match the model's."""


class EmptyBatchError(ShapeError):
    """There is not a single row."""


class TooManyRowsError(ShapeError):
    """More rows than the model takes in one request."""


# ---- Triton -----------------------------------------------------------------------------


class TritonError(BridgeError):
    """Triton answered with an error, or not at all."""


class UnknownModelError(TritonError):
    """Triton has no such model, or not this version of it."""


class TritonUnavailableError(TritonError):
    """Triton cannot be reached, or is not ready."""

    fate = Fate.HAND_BACK


class ModelUnavailableError(TritonError):
    """Triton knows the model, but has no version of it ready; or one Triton that may is away."""

    fate = Fate.RETRY


class AwaitingTurnError(ModelUnavailableError):
    """The model crashed of late, and other tasks that may be to blame are tried first."""


class TritonBusyError(TritonError):
    """The model's queue in Triton is full."""

    fate = Fate.RETRY


class TritonRefusedError(TritonError):
    """Triton found the request itself wrong."""


class InferenceFailedError(TritonError):
    """The model failed inside Triton."""


class BackendCrashedError(InferenceFailedError):
    """The process that computes the model died; a training worker has Triton load it again."""

    fate = Fate.RETRY


class RestrictedError(TritonError):
    """Triton asks for its admin key: TRITON_ADMIN_KEY is missing or wrong."""


class InferenceTimeoutError(TritonError):
    """Triton did not answer within the time of one try, or before the deadline."""


class ModelLoadError(TritonError):
    """Triton could not load a model."""


# ---- payloads: tensors beside the message -----------------------------------------------


class PayloadError(BridgeError):
    """A tensor's bytes cannot be had from the payload store, or not be put there."""


class NoPayloadStoreError(PayloadError):
    """A reference came, but BRIDGE_PAYLOAD_URL is not set."""


class PayloadMissingError(PayloadError):
    """The payload is not in the store: expired, deleted, or never there."""


class PayloadMismatchError(PayloadError):
    """What lies in the store has not the size or checksum that the reference says."""


class PayloadTooLargeError(PayloadError):
    """More bytes than BRIDGE_PAYLOAD_MAX_BYTES or the store takes."""


class PayloadStoreError(PayloadError):
    """The payload store cannot be reached, or refuses us."""

    fate = Fate.RETRY


# ---- training ---------------------------------------------------------------------------


class TrainingError(BridgeError):
    """Training cannot begin, or did not end well."""


class InvalidTrainingRequestError(TrainingError):
    """`model_config` or `hyperparameters` do not hold what they must."""


class DatasetError(TrainingError):
    """The dataset is missing, or cannot be trained on."""


class TrainingFailedError(TrainingError):
    """The training process ended before it had a model."""


class TrainingCrashedError(TrainingFailedError):
    """The training process died; it goes on from its last checkpoint, a few times."""

    fate = Fate.RETRY


class DeviceFailedError(TrainingFailedError):
    """A GPU or its driver failed; a new process may find it well."""

    fate = Fate.RETRY


class TrainingMemoryError(TrainingFailedError):
    """The training needs more memory than it may have, or than its GPU has."""


class MachineMemoryError(TrainingMemoryError):
    """The machine ran out of memory, and the kernel killed the training process."""

    fate = Fate.RETRY


class NodesMissingError(TrainingError):
    """Too few machines of the group are free for a training that wants several."""

    fate = Fate.RETRY


class CheckpointError(TrainingError):
    """A checkpoint cannot be written or read; the one before it still is there."""

    fate = Fate.RETRY


class LeaseLostError(TrainingError):
    """Another worker has the training now."""


class ExportError(TrainingError):
    """The exported model is not, or does not compute, what was trained."""


class NotGoodEnoughError(TrainingError):
    """The trained network does not come to what the request requires; it is not published."""


class PublishError(TrainingError):
    """The model could not go live; what was live before still is."""


class RepositoryWriteError(PublishError):
    """The model repository takes no files now: its disk is full, or away."""

    fate = Fate.RETRY


# ---- queue, results, runtime ------------------------------------------------------------


class QueueError(BridgeError):
    """The queue's server cannot be reached, or refuses us."""

    fate = Fate.RETRY


class MalformedMessageError(BridgeError):
    """Not a taskiq message in JSON or msgpack; the message is dead-lettered."""

    outcome = Outcome.DEAD_LETTERED
    task_id: str | None = None
    """Of whoever waits for it; None: it cannot be told."""


class MessageTooLargeError(BridgeError):
    """The queue's server would not take a message of this size."""


class ResultTooLargeError(BridgeError):
    """The task ended, but Redis would not keep a result of this size."""


class UnknownTaskError(BridgeError):
    """No worker of the queue knows a task of this name; the message is dead-lettered."""

    outcome = Outcome.DEAD_LETTERED


class PoisonousMessageError(BridgeError):
    """The message was delivered too often without an end; it is dead-lettered."""

    outcome = Outcome.DEAD_LETTERED


class TaskExpiredError(BridgeError):
    """The task's deadline passed before it ended."""

    outcome = Outcome.EXPIRED


class TaskCancelledError(BridgeError):
    """Somebody cancelled the task before it ended."""

    outcome = Outcome.CANCELLED


class TooLateError(BridgeError):
    """The task cannot be cancelled any more: its model is being published."""


class InvalidLabelError(BridgeError):
    """A label that says how to run the task cannot be used."""


class ResultTimeoutError(BridgeError):
    """No result within the time that the caller would wait. The task may still end."""


class TaskFailedError(BridgeError):
    """A task ended in an error that is not of this tree; the text begins with its class."""


class RuntimeStartError(BridgeError):
    """A part of the embedded runtime did not start."""


def error_class(name: str) -> type[BridgeError] | None:
    """The class of this tree called `name`, or None.

    Results name error classes. Only this tree is looked through, so that a result can never
    choose a class from elsewhere.
    """
    pending: list[type[BridgeError]] = [BridgeError]
    while pending:
        candidate = pending.pop()
        if candidate.__name__ == name:
            return candidate
        pending.extend(candidate.__subclasses__())
    return None


def outcome_of(error: BaseException | None) -> Outcome:
    """How a task ended whose record holds this error, or none."""
    if error is None:
        return Outcome.SUCCEEDED
    return error.outcome if isinstance(error, BridgeError) else Outcome.FAILED


def error_text(error: BaseException, most: int) -> str:
    """What an error says, as every store and header can carry it.

    Args:
        error: its text may hold what a stranger wrote: half a character, which has no UTF-8, or
            ten million.
        most: characters; longer texts are cut, and say how long they were.
    """
    text = str(error)
    if len(text) > most:
        text = f"{text[:most]}... ({len(text):,} characters)"
    return text.encode("utf-8", "replace").decode()
