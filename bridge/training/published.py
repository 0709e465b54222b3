"""Fine-tuning from what was published: the weights that each version keeps. No torch.

Enters: a model's name in the repository, and a version or none. Leaves: the file of its weights,
which lies in the version's folder beside the ONNX: it comes and goes with it, whole or not at all,
and Triton reads only the files that its backend asks for.
"""

import reprlib
from dataclasses import dataclass
from pathlib import Path

from bridge.errors import InvalidTrainingRequestError
from bridge.repository import ModelRepository

WEIGHTS = "weights.safetensors"
FIELD = "model_config.from_model"

_MOST_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A published version that a training begins with."""

    model: str
    version: int
    path: Path
    """Of its weights."""

    def to_json(self) -> dict[str, str]:
        """As the training process gets it."""
        return {"model": self.model, "version": str(self.version), "path": str(self.path)}


def find_ancestor(root: Path, model: str, version: str | None, architecture: str) -> Ancestor:
    """The version that a training begins with.

    Args:
        root: of the model repository.
        model: a name that was checked.
        version: a number; None: the newest.
        architecture: of the network that shall begin with it.

    Raises:
        InvalidTrainingRequestError: there is none, or it keeps no weights, or is of another
            architecture.
    """
    repository = ModelRepository(root)
    versions = repository.versions(model)
    if not versions:
        raise InvalidTrainingRequestError(
            f"{FIELD}: there is no model {model!r} in {root}; there are "
            f"{_some(repository.models())}"
        )
    number = versions[-1] if version is None else int(version)
    if number not in versions:
        raise InvalidTrainingRequestError(
            f"model_config.from_version: model {model!r} has no version {number}; it has "
            f"{_some([str(one) for one in versions])}"
        )
    path = root / model / str(number) / WEIGHTS
    if not path.is_file():
        raise InvalidTrainingRequestError(
            f"{FIELD}: version {number} of {model!r} keeps no weights, as it was published by an "
            f"older release or put there by hand; name a version that has {WEIGHTS}, or train it "
            "anew"
        )
    if not path.resolve().is_relative_to(root.resolve()):
        raise InvalidTrainingRequestError(
            f"{FIELD}: the weights of {model!r} are a link that leads out of {root}; copy them "
            "instead"
        )
    card = repository.card(model, number) or {}
    known = card.get("model", {}).get("architecture", architecture)
    if known != architecture:
        raise InvalidTrainingRequestError(
            f"{FIELD}: version {number} of {model!r} is of architecture {known!r}, and "
            f"{architecture!r} was asked for; they must be the same"
        )
    return Ancestor(model, number, path)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(map(reprlib.repr, names[-_MOST_SHOWN:])) + more if names else "none"
