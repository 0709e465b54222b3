"""Made-up inputs for a model, from what it says of itself.

Enters: a model's spec. Leaves: arrays that it takes.
"""

import numpy as np

from bridge.errors import InvalidInputError
from bridge.specs import ModelSpec
from bridge.tensors import DTYPES, Array, TensorSpec


def make_inputs(spec: ModelSpec, rows: int, sizes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    """Made-up values that fit a model: an array for each input that it needs.

    Args:
        spec: of the model.
        rows: in the first dimension, where the model has a batch dimension.
        sizes: shapes without that dimension, by input, where the model leaves sizes open.

    Raises:
        InvalidInputError: so many rows, an input or a shape that the model does not take.
    """
    if rows > max(spec.max_batch_size, 1):
        raise InvalidInputError(
            f"model {spec.name!r} takes at most {max(spec.max_batch_size, 1)} rows in a call, not "
            f"{rows}"
        )
    if unknown := sorted(set(sizes) - set(spec.inputs)):
        raise InvalidInputError(
            f"model {spec.name!r} has no input {unknown[0]!r}; it takes {', '.join(spec.inputs)}"
        )
    random = np.random.default_rng(0)
    batch = (rows,) if spec.max_batch_size else ()
    return {
        name: _made_up(random, wanted.datatype, batch + _row_shape(spec, wanted, sizes.get(name)))
        for name, wanted in spec.inputs.items()
        if not wanted.optional or name in sizes
    }


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`image=3,224,224` as an input's name and its sizes.

    Raises:
        InvalidInputError: it is not written so.
    """
    name, equals, sizes = text.partition("=")
    parts = sizes.split(",") if sizes else []
    if not name or not equals or not all(part.strip().isdigit() for part in parts):
        raise InvalidInputError(f"--shape must be NAME=SIZE,SIZE,..., got {text!r}")
    return name, tuple(int(part) for part in parts)


def _row_shape(
    spec: ModelSpec, wanted: TensorSpec, given: tuple[int, ...] | None
) -> tuple[int, ...]:
    open_shape = wanted.shape[1:] if spec.max_batch_size else wanted.shape
    if given is None:
        return tuple(size if size >= 0 else 1 for size in open_shape)
    fits = len(given) == len(open_shape) and all(
        size in (-1, chosen) for size, chosen in zip(open_shape, given, strict=True)
    )
    if not fits:
        raise InvalidInputError(
            f"input {wanted.name!r} has shape {list(open_shape)} without the rows (-1 is any "
            f"size), got {list(given)}"
        )
    return given


def _made_up(random: np.random.Generator, datatype: str, shape: tuple[int, ...]) -> Array:
    if datatype == "BYTES":
        return np.full(shape, b"a short text", dtype=object)
    dtype = DTYPES[datatype]
    if datatype == "BOOL" or dtype.kind in "iu":  # integers may be indices: small ones exist
        return random.integers(0, 2, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)
