"""Tensors as callers write them: nested lists, KServe v2 objects, raw bytes. Pure.

Enters: an entry of `input_data`. Leaves: a checked `Tensor`, and the form in which it came; outputs
are written back in that form. Names follow the Open Inference Protocol (KServe v2).
"""

import base64
import binascii
import math
import reprlib
from enum import Enum
from typing import Any

import numpy as np

from bridge.errors import (
    DatatypeError,
    MalformedTensorError,
    NotANumberError,
    RaggedInputError,
    ShapeError,
)
from bridge.tensors import DTYPES, Array, Tensor, TensorSpec, raw_view, unpack_bytes

_MAX_RANK = 16


class Form(Enum):
    """How a caller wrote a tensor; the answer is written the same way."""

    LISTS = "lists"
    DATA = "data"
    RAW = "raw"


def parse_tensor(value: Any, spec: TensorSpec) -> tuple[Tensor, Form]:
    """Read one entry of `input_data` as the tensor that `spec` wants.

    The datatype is checked here, the shape against the spec is not (`inference` does, with the
    model's batch size in hand).

    Raises:
        InvalidInputError: one of its subclasses, naming the input and what was expected.
    """
    if isinstance(value, list):
        return _from_lists(value, spec), Form.LISTS
    if not isinstance(value, dict):
        raise MalformedTensorError(
            f"input {spec.name!r}: expected a nested list or an object with 'datatype', 'shape' "
            f"and 'data', 'raw' or 'ref'; got {type(value).__name__}"
        )
    if set(value) - {"datatype", "shape"} not in ({"data"}, {"raw"}):
        raise MalformedTensorError(
            f"input {spec.name!r}: an object must have 'datatype', 'shape' and either 'data', "
            f"'raw' or 'ref'; got {reprlib.repr(sorted(map(str, value)))}"
        )
    shape = checked_header(value, spec)
    if "raw" in value:
        return from_raw(value["raw"], shape, spec), Form.RAW
    return _from_data(value["data"], shape, spec), Form.DATA


def checked_header(value: dict[str, Any], spec: TensorSpec) -> tuple[int, ...]:
    """The `shape` of an entry whose `datatype` is what `spec` wants.

    Raises:
        DatatypeError: it is another.
        ShapeError: not a shape at all.
    """
    shape = _checked_shape(spec.name, value.get("shape"))
    if value.get("datatype") != spec.datatype:
        raise DatatypeError(
            f"input {spec.name!r}: the model takes {spec.datatype}, got "
            f"{reprlib.repr(value.get('datatype'))}"
        )
    return shape


def render_tensor(tensor: Tensor, form: Form, *, binary: bool) -> Any:
    """Write a tensor in the caller's form.

    Args:
        tensor: an output.
        form: as the inputs came.
        binary: the message format carries bytes (msgpack); else `raw` is base64.

    Raises:
        DatatypeError: BYTES that are not UTF-8 were asked for as text.
    """
    if form is Form.RAW:
        raw = tensor.data if binary else base64.b64encode(tensor.data).decode("ascii")
        return {"datatype": tensor.datatype, "shape": list(tensor.shape), "raw": raw}
    array = tensor.to_array()
    if tensor.datatype == "BYTES":
        array = _decoded(array)
    elif tensor.datatype == "BF16":
        array = array.astype(np.float32)
    if form is Form.LISTS:
        return array.tolist()
    return {
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        "data": array.reshape(-1).tolist(),
    }


def wire_form(array: Array) -> dict[str, Any]:
    """A numpy array as a `raw` entry of `input_data`, for messages that carry bytes."""
    datatype, data = raw_view(array)
    return {"datatype": datatype, "shape": list(array.shape), "raw": bytes(data)}


def read_raw(value: dict[str, Any]) -> Array:
    """The numpy array of a `raw` entry: the reverse of `wire_form`, base64 understood.

    Raises:
        InvalidInputError: shape, datatype and bytes do not fit together.
    """
    spec = described(value)
    return from_raw(value.get("raw"), spec.shape, spec).to_array()


def described(value: dict[str, Any], name: str = "tensor") -> TensorSpec:
    """What an entry says of itself.

    Raises:
        InvalidInputError: no datatype or shape that a tensor can have.
    """
    datatype = value.get("datatype")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise DatatypeError(f"unknown datatype {reprlib.repr(datatype)}")
    return TensorSpec(name, datatype, _checked_shape(name, value.get("shape")))


def _from_lists(value: list[Any], spec: TensorSpec) -> Tensor:
    try:
        array = np.asarray(value, dtype=object if spec.datatype == "BYTES" else None)
        if spec.datatype == "UINT64" and array.dtype.kind == "f":
            array = _exact_uint64(value, array)
    except ValueError:
        raise _ragged(spec) from None
    except OverflowError:
        raise DatatypeError(f"input {spec.name!r}: a number does not fit {spec.datatype}") from None
    return Tensor.from_array(_cast(array, spec), spec.datatype)


def _exact_uint64(value: list[Any], array: Array) -> Array:
    """Where numbers lie on both sides of 2**63, numpy makes fractions of integers: undo that."""
    exact = np.asarray(value, dtype=object)
    if not all(type(element) is int for element in exact.reshape(-1)):
        return array
    if exact.min() < 0:
        raise OverflowError
    return exact.astype(np.uint64)


def _from_data(value: Any, shape: tuple[int, ...], spec: TensorSpec) -> Tensor:
    if not isinstance(value, list):
        raise MalformedTensorError(f"input {spec.name!r}: 'data' must be a list")
    flat = _from_lists(value, spec)
    if math.prod(flat.shape) != math.prod(shape):
        raise ShapeError(
            f"input {spec.name!r}: 'shape' {list(shape)} needs {math.prod(shape)} elements, "
            f"'data' has {math.prod(flat.shape)}"
        )
    return Tensor(flat.datatype, shape, flat.data)


def from_raw(value: Any, shape: tuple[int, ...], spec: TensorSpec) -> Tensor:
    """The tensor of bytes, or of base64.

    Args:
        value: the bytes, as KServe v2's `raw_input_contents` has them.
        shape: as the sender says.
        spec: names the tensor, and its datatype.

    Raises:
        InvalidInputError: the bytes do not fit datatype and shape.
    """
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise MalformedTensorError(f"input {spec.name!r}: 'raw' is not base64") from None
    if not isinstance(value, bytes):
        raise MalformedTensorError(
            f"input {spec.name!r}: 'raw' must be bytes, or base64 in a JSON message"
        )
    if spec.datatype == "BYTES":
        count, unit, wanted = len(unpack_bytes(spec.name, value)), "elements", math.prod(shape)
    else:
        count, unit = len(value), "bytes"
        wanted = math.prod(shape) * DTYPES[spec.datatype].itemsize
    if count != wanted:
        raise ShapeError(
            f"input {spec.name!r}: {spec.datatype} of shape {list(shape)} needs {wanted} {unit}, "
            f"'raw' has {count}"
        )
    return Tensor(spec.datatype, shape, value)


def _cast(array: Array, spec: TensorSpec) -> Array:
    """Check that the elements are of the datatype's kind, and convert them without loss."""
    if spec.datatype == "BYTES":
        return _checked_text(array, spec)
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


def _checked_text(array: Array, spec: TensorSpec) -> Array:
    strange = next((x for x in array.reshape(-1) if not isinstance(x, (str, bytes))), "")
    if isinstance(strange, list):  # numpy keeps ragged rows as lists where dtype is object
        raise _ragged(spec)
    if strange != "":
        raise DatatypeError(
            f"input {spec.name!r}: the model takes BYTES (strings), got {type(strange).__name__}"
        )
    return array


def _ragged(spec: TensorSpec) -> RaggedInputError:
    return RaggedInputError(
        f"input {spec.name!r}: rows differ in length or depth; every row must have the same "
        f"shape (the model takes {list(spec.shape)})"
    )


def _kind_of(array: Array) -> str:
    names = {"b": "booleans", "i": "integers", "u": "integers", "f": "fractions"}
    return names.get(array.dtype.kind, "text" if array.dtype.kind in "US" else "mixed values")


def _checked_shape(name: str, value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or len(value) > _MAX_RANK
        or not all(type(size) is int and 0 <= size < 2**63 for size in value)
    ):
        raise ShapeError(
            f"input {name!r}: 'shape' must be a list of at most {_MAX_RANK} sizes, got "
            f"{reprlib.repr(value)}"
        )
    return tuple(value)


def _decoded(array: Array) -> Array:
    try:
        texts = [element.decode() for element in array.reshape(-1)]
    except UnicodeDecodeError:
        raise DatatypeError(
            "an output holds bytes that are not UTF-8: send the inputs as 'raw' to get it as raw"
        ) from None
    return np.array([*texts, None], dtype=object)[:-1].reshape(array.shape)
