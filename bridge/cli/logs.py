"""`mlbridge logs`: what the training processes of a task printed."""

import asyncio
from typing import Annotated

import typer

from bridge.errors import TrainingError
from bridge.names import check_task_id
from bridge.settings import load_settings
from bridge.training.checkpoints import Checkpoints
from bridge.training.places import open_checkpoint_store


def logs(
    task_id: Annotated[str, typer.Argument(help="A training's id.")],
) -> None:
    """Show what a training's processes printed: tracebacks, warnings of libraries.

    Read from CHECKPOINT_ROOT, slice by slice; kept for BRIDGE_CHECKPOINT_KEEP_S after its last.

    Example: `mlbridge logs 5f0c2d7e9b3a4c61a0d1e2f3a4b5c6d7`
    """
    settings = load_settings()
    checkpoints = Checkpoints(open_checkpoint_store(settings), check_task_id(task_id), "")
    text = asyncio.run(checkpoints.read_log())
    if text is None:
        raise TrainingError(
            f"there is no log of task {task_id} under {settings.checkpoint_root}: its first slice "
            "has not ended, it failed before that (`mlbridge status` tells), it is no training, or "
            "CHECKPOINT_ROOT is not the workers'"
        )
    typer.echo(text.decode(errors="replace"), nl=False)
