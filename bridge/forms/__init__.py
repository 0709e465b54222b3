"""Tensors as callers write them: nested lists, KServe v2 objects, raw bytes. Pure.

Enters: an entry of `input_data`. Leaves: a checked `Tensor`, and the form in which it came; outputs
are written back in that form. Names follow the Open Inference Protocol (KServe v2).
"""

import base64
import binascii
import math
import reprlib
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np

from bridge.errors import (
    DatatypeError,
    MalformedTensorError,
    ShapeError,
)
from bridge.forms.lists import MAX_RANK, any_shape, from_lists
from bridge.tensors import DTYPES, Array, Shape, Tensor, TensorSpec, raw_view, unpack_bytes


class Form(Enum):
    """How a caller wrote a tensor; the answer is written the same way."""

    LISTS = "lists"
    DATA = "data"
    RAW = "raw"


def parse_tensor(
    value: Any, spec: TensorSpec, check: Callable[[Shape], None] = any_shape
) -> tuple[Tensor, Form]:
    """Read one entry of `input_data` as the tensor that `spec` wants.

    Args:
        value: anything a message may hold.
        spec: the datatype is checked against it here; the shape is not.
        check: raises where a shape does not fit (`inference` knows the model's batch size). It is
            asked before anything is made of the elements.

    Raises:
        InvalidInputError: one of its subclasses, naming the input and what was expected.
    """
    if isinstance(value, list):
        return from_lists(value, spec, check), Form.LISTS
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
    check(shape)
    if "raw" in value:
        return from_raw(value["raw"], shape, spec), Form.RAW
    return _from_data(value["data"], shape, spec), Form.DATA


def checked_header(value: dict[str, Any], spec: TensorSpec) -> Shape:
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


def read_entry(value: dict[str, Any]) -> Array:
    """The numpy array of an entry: the reverse of `wire_form`, and of what KServe v2's JSON has.

    Raises:
        InvalidInputError: shape, datatype and bytes do not fit together.
    """
    spec = described(value)
    if "data" in value:
        return _from_data(value["data"], spec.shape, spec).to_array()
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


def _from_data(value: Any, shape: Shape, spec: TensorSpec) -> Tensor:
    if not isinstance(value, list):
        raise MalformedTensorError(f"input {spec.name!r}: 'data' must be a list")
    flat = from_lists(value, spec)
    if math.prod(flat.shape) != math.prod(shape):
        raise ShapeError(
            f"input {spec.name!r}: 'shape' {list(shape)} needs {math.prod(shape)} elements, "
            f"'data' has {math.prod(flat.shape)}"
        )
    return Tensor(flat.datatype, shape, flat.data)


def from_raw(value: Any, shape: Shape, spec: TensorSpec) -> Tensor:
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
        wanted, unit = math.prod(shape), "elements"
        count = len(unpack_bytes(spec.name, value, most=wanted))
    else:
        count, unit = len(value), "bytes"
        wanted = math.prod(shape) * DTYPES[spec.datatype].itemsize
    if count != wanted:
        raise ShapeError(
            f"input {spec.name!r}: {spec.datatype} of shape {list(shape)} needs {wanted} {unit}, "
            f"'raw' has {'more' if unit == 'elements' and count > wanted else count}"
        )
    return Tensor(spec.datatype, shape, value)


def _checked_shape(name: str, value: Any) -> Shape:
    if (
        not isinstance(value, list)
        or len(value) > MAX_RANK
        or not all(type(size) is int and 0 <= size < 2**63 for size in value)
    ):
        raise ShapeError(
            f"input {name!r}: 'shape' must be a list of at most {MAX_RANK} sizes, got "
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
