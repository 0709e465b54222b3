"""Fine-tuning: a network begins with weights that exist. Loads torch with first use only.

Enters: a file, under `DATASET_ROOT` or of a published version. Leaves: weights in the network, and
what was not found there. Files are safetensors, or torch's with nothing in them but tensors: no
code in them runs.
"""

import errno
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.errors import InvalidNameError, InvalidTrainingRequestError
from bridge.names import check_name

if TYPE_CHECKING:
    import torch
    from torch import nn

ENDINGS = (".safetensors", ".pt", ".pth")

_FIELD = "model_config.weights"
_MOST_NAMES = 10
_OS_ERROR = re.compile(r"os error (\d+)")


def weights_file(root: Path, name: str) -> Path:
    """Where a file of weights lies: directly under the root, also behind links.

    Raises:
        InvalidTrainingRequestError: there is none, or it is no such file, or lies elsewhere.
    """
    try:
        path = root / check_name(_FIELD, name)
    except InvalidNameError as error:
        raise InvalidTrainingRequestError(str(error)) from error
    if path.suffix not in ENDINGS:
        raise InvalidTrainingRequestError(
            f"{_FIELD}: must end with {', '.join(ENDINGS)}, got {name!r}"
        )
    if not path.is_file():
        raise InvalidTrainingRequestError(f"{_FIELD}: there is no file {name!r} in {root}")
    if not path.resolve().is_relative_to(root.resolve()):
        raise InvalidTrainingRequestError(
            f"{_FIELD}: {name!r} is a link that leads out of {root}; copy the file instead"
        )
    return path


def begin_with(
    network: "nn.Module", path: Path, *, freeze: bool, field: str = _FIELD
) -> dict[str, Any]:
    """Load weights into a network, by their names.

    All must fit but those of the head, the last module with weights, which may have been made for
    other classes: such ones keep what was drawn for them.

    Args:
        network: an architecture's, untrained.
        path: from `weights_file`, or of a published version.
        freeze: train the head only; what lies before it stays as it is, its batch statistics too.
        field: which the caller has set, for errors.

    Returns:
        `file`, `loaded` (how many tensors), `initialised` (names that were not loaded), `frozen`.

    Raises:
        InvalidTrainingRequestError: the file cannot be read, or its tensors do not fit.
    """
    given, own, head = _read(path, field), network.state_dict(), _head(network)
    fresh = {name for name in own if name not in given or given[name].shape != own[name].shape}
    problems = {
        "missing": [name for name in own if name not in given and name not in head],
        "unknown": sorted(name for name in given if name not in own),
        "of another shape": [
            f"{name} {list(given[name].shape)} instead of {list(own[name].shape)}"
            for name in own
            if name in given and name in fresh and name not in head
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise InvalidTrainingRequestError(
            f"{field}: {path.name!r} does not fit this network ({told}); check architecture, "
            f"model_config.options and the dataset's shape"
        )
    network.load_state_dict({n: t for n, t in given.items() if n not in fresh}, strict=False)
    if freeze:
        freeze_all_but_head(network)
    return {
        "file": path.name,
        "loaded": len(own) - len(fresh),
        "initialised": sorted(fresh),
        "frozen": freeze,
    }


def save_weights(network: "nn.Module", path: Path) -> dict[str, Any]:
    """Write all that a network has learned as safetensors; returns `file`, `tensors`, `bytes`.

    Raises:
        OSError: they cannot be written.
    """
    import torch  # noqa: PLC0415  (see above)
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    # Copies: what shares its memory would be refused.
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in network.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    try:
        save_file(state, path)
    except SafetensorError as error:  # it has the system's own number in its text only
        number = _OS_ERROR.search(str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
    return {"file": path.name, "tensors": len(state), "bytes": path.stat().st_size}


def _read(path: Path, field: str) -> "dict[str, torch.Tensor]":
    import torch  # noqa: PLC0415  (see above)
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidTrainingRequestError(
            f"{field}: cannot read {path.name!r} as nothing but tensors: {first}"
        ) from error
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    ):
        raise InvalidTrainingRequestError(
            f"{field}: {path.name!r} is no state dict: save a network's `state_dict()`"
        )
    return dict(found)


def _head(network: "nn.Module") -> set[str]:
    """Names of all that belongs to the last module with weights of its own."""
    last = ""
    for name, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            last = name
    prefix = f"{last}." if last else ""
    return {name for name in network.state_dict() if name.startswith(prefix)}


def freeze_all_but_head(network: "nn.Module") -> None:
    """Have only the last module with weights learn."""
    head = _head(network)
    for name, weight in network.named_parameters():
        weight.requires_grad_(name in head)
    for name, module in network.named_modules():
        inside = any(other == name or other.startswith(f"{name}.") for other in head)
        if name and not inside:
            module.eval()  # dropout, and batch statistics


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - _MOST_NAMES} more" if len(shown) > _MOST_NAMES else ""
    return ", ".join(shown[:_MOST_NAMES]) + more
