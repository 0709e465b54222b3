"""Nested lists of numbers or texts to tensors. Pure.

Enters: a list from a message, of any content. Leaves: a `Tensor`, converted without loss. Shape
and elements are checked before numpy makes an array of them: what it would make of mixed elements
has no bound.
"""

import contextlib
import struct
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import numpy as np

from bridge.errors import DatatypeError, NotANumberError, RaggedInputError, ShapeError
from bridge.tensors import DTYPES, Array, Shape, Tensor, TensorSpec

MAX_RANK = 16
_NUMBERS, _TEXTS = {int, float, bool}, {str, bytes}
_PACKED = {"FP32": "f", "FP64": "d"}
"""As `struct` calls them."""


def any_shape(shape: Shape) -> None:
    """Refuses none."""


def from_lists(
    value: list[Any], spec: TensorSpec, check: Callable[[Shape], None] = any_shape
) -> Tensor:
    """Read nested lists as the tensor that `spec` wants; its shape is for `check` to refuse.

    Raises:
        InvalidInputError: one of its subclasses, naming the input and what was expected.
    """
    shape, elements = _outline(value, spec)
    check(shape)
    data = _packed(value, shape, spec)
    if data is not None:
        return Tensor(spec.datatype, shape, data)
    _check_elements(elements, spec)
    try:
        array = np.asarray(value, dtype=object if spec.datatype == "BYTES" else None)
        if spec.datatype == "UINT64" and array.dtype.kind == "f":
            array = _exact_uint64(value, array)
    except ValueError:
        raise _ragged(spec) from None
    except OverflowError:
        raise DatatypeError(f"input {spec.name!r}: a number does not fit {spec.datatype}") from None
    if array.shape != shape:  # where dtype is object, numpy keeps ragged rows as lists
        raise _ragged(spec)
    return Tensor.from_array(_cast(array, spec), spec.datatype)


def guessed_array(value: Any) -> Array:
    """What numpy makes of an output's nested lists; integers up to 2**64 remain what they are."""
    array = np.asarray(value)
    if array.dtype.kind == "f" and array.size and array.max() >= 2**63:
        with contextlib.suppress(OverflowError):
            return _exact_uint64(value, array)
    return array


def _outline(value: list[Any], spec: TensorSpec) -> tuple[Shape, Iterable[Any]]:
    """The shape that the first row of each level promises, and the elements at that depth."""
    shape, elements, first = [len(value)], iter(value), value
    while first and isinstance(first[0], list):
        first, elements = first[0], chain.from_iterable(elements)
        shape.append(len(first))
        if len(shape) > MAX_RANK:
            raise ShapeError(f"input {spec.name!r}: lists are nested deeper than {MAX_RANK}")
    return tuple(shape), elements


def _packed(value: list[Any], shape: Shape, spec: TensorSpec) -> bytes | None:
    """The usual, fractions that fit, at a third of the time; None: it takes a closer look."""
    form = _PACKED.get(spec.datatype)
    if form is None:
        return None
    flat = value
    for size in shape[1:]:
        if set(map(type, flat)) != {list} or set(map(len, flat)) != {size}:
            return None
        flat = flat[0] if len(flat) == 1 else list(chain.from_iterable(flat))
    if not flat or type(flat[0]) is not float:
        return None
    try:
        return struct.pack(f"{len(flat)}{form}", *flat)
    except (struct.error, OverflowError):
        return None


def _check_elements(elements: Iterable[Any], spec: TensorSpec) -> None:
    """Let numpy see numbers alone: beside a text it makes each element as wide as the longest."""
    wanted = _TEXTS if spec.datatype == "BYTES" else _NUMBERS
    try:
        strange = set(map(type, elements)) - wanted
    except TypeError:  # a row that is none
        raise _ragged(spec) from None
    if list in strange:
        raise _ragged(spec)
    if strange:
        takes = "BYTES (strings)" if spec.datatype == "BYTES" else spec.datatype
        got = "text" if strange <= _TEXTS else ", ".join(sorted(it.__name__ for it in strange))
        raise DatatypeError(f"input {spec.name!r}: the model takes {takes}, got {got}")


def _exact_uint64(value: list[Any], array: Array) -> Array:
    """Where numbers lie on both sides of 2**63, numpy makes fractions of integers: undo that."""
    exact = np.asarray(value, dtype=object)
    if not all(type(element) is int for element in exact.reshape(-1)):
        return array
    if exact.min() < 0:
        raise OverflowError
    return exact.astype(np.uint64)


def _cast(array: Array, spec: TensorSpec) -> Array:
    """Check that the elements are of the datatype's kind, and convert them without loss."""
    if spec.datatype == "BYTES":
        return array
    kind, wanted = array.dtype.kind, DTYPES[spec.datatype]
    if array.size == 0:
        return array.astype(wanted)
    floating = spec.datatype in {"FP16", "BF16", "FP32", "FP64"}
    if kind == "f" and not floating and not np.isfinite(array).all():
        raise NotANumberError(
            f"input {spec.name!r}: the model takes {spec.datatype}, got NaN or infinity"
        )
    if kind not in ("fiu" if floating else "b" if spec.datatype == "BOOL" else "iu"):
        raise DatatypeError(
            f"input {spec.name!r}: the model takes {spec.datatype}, got {_kind_of(array)}"
        )
    if not floating and spec.datatype != "BOOL":
        bounds = np.iinfo(wanted)
        low, high = int(array.min()), int(array.max())
        if low < bounds.min or high > bounds.max:
            raise DatatypeError(
                f"input {spec.name!r}: {spec.datatype} holds {bounds.min} to {bounds.max}, "
                f"got {low if low < bounds.min else high}"
            )
    with np.errstate(over="ignore"):  # beyond FP16's range is infinity, as on the device
        return array.astype(wanted)


def _ragged(spec: TensorSpec) -> RaggedInputError:
    return RaggedInputError(
        f"input {spec.name!r}: rows differ in length or depth; every row must have the same "
        f"shape (the model takes {list(spec.shape)})"
    )


def _kind_of(array: Array) -> str:
    names = {"b": "booleans", "i": "integers", "u": "integers", "f": "fractions"}
    return names.get(array.dtype.kind, "numbers beyond 64 bits")
