"""Versions that are out of service: Triton refused them, or a person took them out.

Enters: a repository, a model, a version. Leaves: its folder under another name, which Triton does
not look for; one rename there, and one back. Nothing here asks Triton.
"""

import shutil
from pathlib import Path
from typing import Any

from bridge.errors import PublishError, UnknownModelError
from bridge.names import check_name
from bridge.repository.disk import rename, sync
from bridge.repository.signature import Signature
from bridge.repository.store import CARD, ModelRepository


def withdraw(repository: ModelRepository, model: str, version: int, *, keep: bool = False) -> None:
    """Take a version out of service. Its number is not given out again.

    Args:
        repository: which holds it.
        model: whose it is.
        version: its number.
        keep: all of it, so that it can be restored; else its card alone.

    Raises:
        PublishError: it cannot be taken out, or there is no such version.
    """
    home = repository.root / check_name("model_id", model)
    grave = _grave(repository, model, version)
    try:
        (home / str(version)).rename(grave)
        sync(home)
        for entry in () if keep else list(grave.iterdir()):
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != CARD:
                entry.unlink()
    except OSError as error:
        raise PublishError(
            f"cannot withdraw version {version} of model {model!r}: {error}"
        ) from error


def restorable(repository: ModelRepository, model: str) -> list[int]:
    """The withdrawn versions of which all is there, rising: of others, the card alone is.

    A person may have laid any model that Triton has a backend for.
    """
    numbers = repository.withdrawn(model)
    return [it for it in numbers if _holds_a_model(_grave(repository, model, it))]


def taken_out(
    repository: ModelRepository, model: str, task_id: str
) -> tuple[int, dict[str, Any]] | None:
    """The version that this task published and a person took out since, and its card."""
    for version in restorable(repository, model):
        card = repository.read_card(_grave(repository, model, version))
        if card is not None and card.get("task_id") == task_id:
            return version, card
    return None


def restore(repository: ModelRepository, model: str, version: int) -> None:
    """Put a version that was withdrawn and kept into service again.

    Raises:
        UnknownModelError: there is no such version.
        PublishError: the model takes or gives something else by now, or it cannot be renamed.
    """
    if version not in restorable(repository, model):
        kept = ", ".join(map(str, restorable(repository, model))) or "none"
        raise UnknownModelError(
            f"there is no version {version} of model {model!r} to restore; withdrawn and kept: "
            f"{kept}"
        )
    grave = _grave(repository, model, version)
    card = repository.read_card(grave)
    if repository.versions(model) and card is not None and "signature" in card:
        repository.check_signature(model, Signature.from_json(card["signature"]), card)
    try:
        if not rename(grave, grave.with_name(str(version))):
            raise PublishError(f"there is a version {version} of model {model!r} already")
        sync(grave.parent)
    except OSError as error:
        raise PublishError(
            f"cannot restore version {version} of model {model!r}: {error}"
        ) from error


def _grave(repository: ModelRepository, model: str, version: int) -> Path:
    return repository.root / check_name("model_id", model) / f".withdrawn-{version}"


def _holds_a_model(grave: Path) -> bool:
    return any(entry.name != CARD for entry in grave.glob("*"))
