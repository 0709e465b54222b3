"""What the system refuses to a training at its start, told so that it is tried again. No torch.

Enters: an `OSError` of a disk, a mount or a table of processes that is full or away. Leaves: an
error of our tree whose fate is another try, as such things pass; it says what to do about it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.errors import BridgeError, CheckpointError, RepositoryWriteError, TrainingCrashedError


@contextmanager
def working_in(folder: Path | str, variable: str) -> Iterator[None]:
    """Around what is laid into a folder of which the environment decides.

    Args:
        folder: where.
        variable: name of the one that can name another.

    Raises:
        CheckpointError: it cannot be laid there now.
    """
    with _told(
        CheckpointError,
        f"cannot work in {folder}",
        f"free room there, or set {variable} to a local folder that has it",
    ):
        yield


@contextmanager
def starting_a_process() -> Iterator[None]:
    """Around that.

    Raises:
        TrainingCrashedError: the machine has no room for another.
    """
    advice = "this machine, or its container, may have no memory or no processes left"
    with _told(TrainingCrashedError, "cannot start a training process", advice):
        yield


@contextmanager
def reading_repository(root: Path) -> Iterator[None]:
    """Around what looks into the model repository.

    Raises:
        RepositoryWriteError: it cannot be looked into now.
    """
    with _told(RepositoryWriteError, f"cannot use the model repository {root}", "is it mounted?"):
        yield


@contextmanager
def _told(kind: type[BridgeError], what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise kind(f"{what}: {error}; {advice}") from error
