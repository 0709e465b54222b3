"""By what TensorRT's cached engines are told apart.

Enters: a `Plan`, a model file. Leaves: the plan, with the model's content in the engines' names.
ONNX Runtime names them by the names in the model's graph alone (microsoft/onnxruntime#6455): a
version with other weights would be served by the engine of the version before.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import providers  # beside this file

_CACHES, _PREFIX = "trt_engine_cache_enable", "trt_engine_cache_prefix"
_ABOUT = {".json", ".md"}  # cards, which a candidate does not have yet


def name_engines(wanted: providers.Plan, model: Path) -> providers.Plan:
    """The same plan; where it caches engines and gives them no name, they get one.

    Args:
        wanted: as settled.
        model: its file; what lies beside it and below may be its weights.
    """
    named = tuple(
        (name, {**options, _PREFIX: _digest(model.parent)})
        if name == providers.TENSORRT and options.get(_CACHES) == "True" and _PREFIX not in options
        else (name, options)
        for name, options in wanted.providers
    )
    return replace(wanted, providers=named)


def _digest(folder: Path) -> str:
    """Of all that a model may be made of."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in _ABOUT:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
            found.update(str(path.relative_to(folder)).encode() + b"\0" + content)
    return found.hexdigest()[:32]
