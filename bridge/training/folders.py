"""Folders of one training process: they go when it ends, and those of killed workers soon after.

Enters: where they may be. Leaves: a folder for a block, held by a lock that the kernel gives back
however its owner dies; whoever makes the next one removes what is held by nobody.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge.training.checkpoints import room
from bridge.training.hindrances import working_in

_SCRATCH = "mlbridge-training-"


@contextmanager
def work_folder(root: Path, task_id: str) -> Iterator[Path]:
    """A new folder for one delivery of a task, removed at the end.

    What an earlier delivery of the same task left is removed first: its worker is dead, or is
    about to lose to this one. So is what any other worker left that was killed.

    Raises:
        CheckpointError: it cannot be made.
    """
    task = room(task_id)
    with contextlib.ExitStack() as held:
        with working_in(root, "BRIDGE_WORK_ROOT"):
            for leftover in root.glob(f"work-{task}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            root.mkdir(parents=True, exist_ok=True)
            folder = _make(root, "work-", f"{task}-", held)
        yield folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """For what a process and its libraries put into the system's temporary folder, and leave there.

    Not in the work folder, whose path may be too long for the sockets that are made here.

    Raises:
        CheckpointError: it cannot be made.
    """
    with contextlib.ExitStack() as held:
        with working_in("the system's folder for temporary files", "TMPDIR"):
            folder = _make(Path(tempfile.gettempdir()), _SCRATCH, "", held)
        yield folder


def _make(root: Path, kind: str, name: str, held: contextlib.ExitStack) -> Path:
    """A folder that goes with `held`."""
    for folder in root.glob(f"{kind}*"):
        with contextlib.suppress(OSError), _held(folder):  # BlockingIOError: its worker lives
            shutil.rmtree(folder, ignore_errors=True)
    folder = root / f"{kind}{name}{uuid.uuid4().hex[:8]}"
    hidden = root / f".{folder.name}"  # until it is held
    hidden.mkdir(mode=0o700)
    held.callback(shutil.rmtree, hidden, ignore_errors=True)  # where the next lines fail
    held.enter_context(_held(hidden))
    held.callback(shutil.rmtree, folder, ignore_errors=True)
    hidden.rename(folder)
    return folder


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder; the kernel lets go of it when the process dies, however it dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
