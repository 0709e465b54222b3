"""Which places the settings name: for checkpoints, and for a training process's files. No torch."""

import os
from pathlib import Path

from bridge.errors import CheckpointError
from bridge.settings import Settings
from bridge.training.checkpoint_folder import CheckpointFolder
from bridge.training.checkpoint_store import CheckpointStore


def open_checkpoint_store(settings: Settings) -> CheckpointStore:
    """The store that CHECKPOINT_ROOT names; not connected yet. Call it after any fork.

    Raises:
        SettingsError: its settings do not fit together.
    """
    root = settings.checkpoint_root
    if isinstance(root, Path):
        return CheckpointFolder(root)
    from bridge.training.checkpoint_bucket import open_bucket  # noqa: PLC0415 - only where it is used

    return open_bucket(root, settings)


def open_work_root(settings: Settings) -> Path:
    """The local folder in which training processes work; made, if it is not there.

    Raises:
        CheckpointError: it cannot be made, or lies where everybody may write and is not ours.
    """
    root = settings.work_root
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What lies there is loaded into the training process.
        foreign = settings.works_in_temp and root.stat().st_uid != os.getuid()
    except OSError as error:
        raise CheckpointError(
            f"cannot make the work folder {root}: {error.strerror or error}; set BRIDGE_WORK_ROOT "
            "to a local folder that can be written"
        ) from None
    if foreign:
        raise CheckpointError(
            f"the work folder {root} is another user's; set BRIDGE_WORK_ROOT to one of your own"
        )
    return root
