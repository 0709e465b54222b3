"""`mlbridge logs`: what the training processes of a task printed."""

from typing import Annotated

import typer

from bridge.errors import TrainingError
from bridge.names import check_name
from bridge.settings import load_settings
from bridge.training.checkpoints import LOG, job_folder


def logs(
    task_id: Annotated[str, typer.Argument(help="A training's id.")],
) -> None:
    """Show what a training's processes printed: tracebacks, warnings of libraries.

    Read from CHECKPOINT_ROOT, slice by slice; kept for BRIDGE_CHECKPOINT_KEEP_S after its last.

    Example: `mlbridge logs 5f0c2d7e9b3a4c61a0d1e2f3a4b5c6d7`
    """
    root = load_settings().checkpoint_root
    file = job_folder(root, check_name("task_id", task_id)) / LOG
    try:
        text = file.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(
            f"there is no log of task {task_id} under {root}: its first slice has not ended, it is "
            "no training, or CHECKPOINT_ROOT is not the workers'"
        ) from None
    typer.echo(text, nl=False)
