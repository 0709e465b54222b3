"""Tensors as Triton takes them, and what numpy has to do with it. Pure: no I/O, no taskiq.

Enters: numpy arrays, or bytes that are known to fit. Leaves: a `Tensor`, whose bytes are KServe
v2's `raw_input_contents`: row-major, little-endian, BYTES elements each behind a 4-byte length.
Datatype names and layout follow the Open Inference Protocol (KServe v2), gRPC, "Inference using raw
contents".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from bridge.errors import (
    DatatypeError,
    MalformedTensorError,
    ShapeError,
)

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}
"""KServe v2 datatype -> numpy dtype. BYTES are object arrays of `bytes`."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a model wants of one input, or promises of one output.

    `shape` includes the batch dimension where the model has one; -1 is any size.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(slots=True)  # not frozen: one or more are made for each message
class Tensor:
    """One tensor, checked: `data` holds exactly the elements of `shape`."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def from_array(cls, array: Array, datatype: str | None = None) -> "Tensor":
        """Make a tensor of a numpy array.

        Args:
            array: any shape; strings and objects become BYTES.
            datatype: KServe name; by default the one of the array's dtype.

        Raises:
            DatatypeError: numpy's dtype has no KServe name.
        """
        if datatype is None:
            datatype = datatype_of(array)
        if datatype == "BYTES":
            return cls(datatype, array.shape, pack_bytes(array))
        wanted = DTYPES[datatype]
        return cls(datatype, array.shape, np.ascontiguousarray(array, dtype=wanted).tobytes())

    def to_array(self) -> Array:
        """The elements as a numpy array of `shape` (read-only view where it can be)."""
        if self.datatype == "BYTES":
            flat = np.array([*unpack_bytes("tensor", self.data), None], dtype=object)[:-1]
            return flat.reshape(self.shape)
        return np.frombuffer(self.data, dtype=DTYPES[self.datatype]).reshape(self.shape)


def datatype_of(array: Array) -> str:
    """The KServe v2 name of a numpy array's dtype.

    Raises:
        DatatypeError: there is none.
    """
    if array.dtype.kind in "OSU":
        return "BYTES"
    try:
        return _NAMES[array.dtype.newbyteorder("<")]
    except KeyError:
        raise DatatypeError(
            f"numpy dtype {array.dtype} has no KServe datatype; use one of {', '.join(DTYPES)}"
        ) from None


def join_rows(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor with all rows, first to last; the tensors differ in their first dimension only."""
    first = tensors[0]
    rows = sum(tensor.shape[0] for tensor in tensors)
    data = b"".join([tensor.data for tensor in tensors])
    return Tensor(first.datatype, (rows, *first.shape[1:]), data)


def split_rows(tensor: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """Cut a tensor into parts of so many rows: the reverse of `join_rows`.

    Raises:
        ShapeError: the tensor has another number of rows than the parts together.
    """
    if not tensor.shape or tensor.shape[0] != sum(rows):
        raise ShapeError(f"cannot cut shape {list(tensor.shape)} into {sum(rows)} rows")
    ends = _row_ends(tensor)
    parts, row = [], 0
    for count in rows:
        start, row = ends[row], row + count
        data = tensor.data[start : ends[row]]
        parts.append(Tensor(tensor.datatype, (count, *tensor.shape[1:]), data))
    return parts


def _row_ends(tensor: Tensor) -> Sequence[int]:
    """Byte offsets between rows: `shape[0] + 1` of them."""
    if tensor.datatype != "BYTES":
        width = len(tensor.data) // (tensor.shape[0] or 1)
        return range(0, len(tensor.data) + 1, width) if width else [0] * (tensor.shape[0] + 1)
    offset, offsets = 0, [0]
    for element in unpack_bytes("tensor", tensor.data):
        offset += 4 + len(element)
        offsets.append(offset)
    step = math.prod(tensor.shape[1:])
    return offsets[::step] if step else [0] * (tensor.shape[0] + 1)


def raw_view(array: Array) -> tuple[str, bytes | memoryview]:
    """A numpy array's KServe datatype, and its bytes as `raw` has them.

    Nothing is copied where the array already lies so in memory.

    Raises:
        DatatypeError: numpy's dtype has no KServe name.
    """
    datatype = datatype_of(array)
    if datatype == "BYTES":
        return datatype, pack_bytes(array)
    flat = np.ascontiguousarray(array, dtype=DTYPES[datatype]).reshape(-1)
    return datatype, flat.view(np.uint8).data


def pack_bytes(array: Array) -> bytes:
    """BYTES elements, strings as UTF-8, each behind its length.

    Raises:
        DatatypeError: an element is neither text nor bytes.
    """
    parts: list[bytes] = []
    for element in array.reshape(-1).tolist():
        if isinstance(element, str):
            try:
                element = element.encode()  # noqa: PLW2901
            except UnicodeEncodeError:
                raise DatatypeError("a string holds half a character (a lone surrogate)") from None
        elif not isinstance(element, bytes):
            raise DatatypeError(f"BYTES elements must be strings, got {type(element).__name__}")
        parts += (len(element).to_bytes(4, "little"), element)
    return b"".join(parts)


def unpack_bytes(name: str, data: bytes, most: int | None = None) -> list[bytes]:
    """The elements of BYTES.

    Args:
        name: what an error calls them.
        data: the elements, each behind its length.
        most: how many are wanted: what follows the first surplus one is not looked at.

    Raises:
        MalformedTensorError: the lengths do not fit the data.
    """
    elements: list[bytes] = []
    offset = 0
    while offset < len(data) and (most is None or len(elements) <= most):
        end = offset + 4 + int.from_bytes(data[offset : offset + 4], "little")
        if offset + 4 > len(data) or end > len(data):
            raise MalformedTensorError(
                f"input {name!r}: 'raw' of BYTES must be elements behind 4-byte lengths"
            )
        elements.append(data[offset + 4 : end])
        offset = end
    return elements
