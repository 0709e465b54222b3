"""References: what a message says about a tensor whose bytes lie in the payload store. Pure.

Enters: `{"datatype","shape","ref"}` of a message. Leaves: a checked `StoredTensor`. A reference
names a payload and nothing else: where the store is, only the settings say, so that a message can
make nobody read another host, bucket or folder.
"""

import math
import re
import reprlib
import secrets
from dataclasses import dataclass
from typing import Any

from bridge.errors import MalformedReferenceError, ShapeError
from bridge.forms import checked_header, described, from_raw
from bridge.tensors import DTYPES, Tensor, TensorSpec

_KEY = re.compile(r"(?P<expires>[0-9]{10})-(?P<kind>[ts])-[0-9a-f]{32}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FIELDS = {"key", "size", "sha256"}


@dataclass(frozen=True, slots=True)
class Reference:
    """One payload: its key, how many bytes it has, and their SHA-256 in lower-case hex."""

    key: str
    size: int
    sha256: str

    @property
    def expires_at(self) -> int:
        """When it may be gone, in seconds since 1970."""
        return key_expires_at(self.key)

    def written(self) -> dict[str, Any]:
        """As a message carries it."""
        return {"key": self.key, "size": self.size, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor whose bytes lie in the payload store; size, shape and datatype fit together."""

    datatype: str
    shape: tuple[int, ...]
    reference: Reference

    def written(self) -> dict[str, Any]:
        """As a message carries it."""
        return {
            "datatype": self.datatype,
            "shape": list(self.shape),
            "ref": self.reference.written(),
        }

    def filled(self, name: str, data: bytes) -> Tensor:
        """The tensor with its bytes, as many as the reference says.

        Args:
            name: of the input or output, for the error.
            data: what the store gave.

        Raises:
            InvalidInputError: BYTES elements that do not fit the shape.
        """
        if self.datatype == "BYTES":  # the only one whose size does not tell the count
            return from_raw(data, self.shape, TensorSpec(name, self.datatype, self.shape))
        return Tensor(self.datatype, self.shape, data)


def is_stored(value: Any) -> bool:
    """Whether an entry of `input_data` or `outputs` is a reference."""
    return isinstance(value, dict) and "ref" in value


def parse_stored(value: dict[str, Any], spec: TensorSpec) -> StoredTensor:
    """Read an entry of `input_data` as the tensor that `spec` wants, before anybody fetches it.

    Raises:
        InvalidInputError: one of its subclasses, naming the input and what was expected.
    """
    what = f"input {spec.name!r}"
    if set(value) != {"datatype", "shape", "ref"}:
        raise MalformedReferenceError(
            f"{what}: a reference must have 'datatype', 'shape' and 'ref'; got "
            f"{reprlib.repr(sorted(map(str, value)))}"
        )
    return _stored(what, value["ref"], spec.datatype, checked_header(value, spec))


def read_stored(name: str, value: dict[str, Any]) -> StoredTensor:
    """The tensor of an entry of `outputs`.

    Raises:
        InvalidInputError: shape, datatype and reference do not fit together.
    """
    spec = described(value, name)
    return _stored(f"output {name!r}", value.get("ref"), spec.datatype, spec.shape)


def _stored(what: str, ref: Any, datatype: str, shape: tuple[int, ...]) -> StoredTensor:
    reference = parse_reference(what, ref)
    fixed = datatype != "BYTES"
    # An element of BYTES is at least its 4-byte length.
    least = math.prod(shape) * (DTYPES[datatype].itemsize if fixed else 4)
    if reference.size < least or (fixed and reference.size != least):
        raise ShapeError(
            f"{what}: {datatype} of shape {list(shape)} needs {'' if fixed else 'at least '}"
            f"{least} bytes, 'size' says {reference.size}"
        )
    return StoredTensor(datatype, shape, reference)


def new_key(expires_at: int, *, shared: bool) -> str:
    """A key that nobody can guess.

    Whether a payload is shared by tasks or belongs to one stands in its key: a message cannot
    have another's shared payload deleted by calling it its own.

    Args:
        expires_at: in seconds since 1970.
        shared: it stays until it expires, and is not deleted with the task that names it.
    """
    return f"{expires_at:010d}-{'s' if shared else 't'}-{secrets.token_hex(16)}"


def is_key(text: str) -> bool:
    """Whether `new_key` could have made it."""
    return _KEY.fullmatch(text) is not None


def key_expires_at(key: str) -> int:
    """When the payload of a checked key may be gone, in seconds since 1970."""
    return int(key[:10])


def parse_reference(name: str, value: Any) -> Reference:
    """Read the `ref` object of a tensor.

    Args:
        name: of the tensor, for the error.
        value: anything a message may hold.

    Raises:
        MalformedReferenceError: says which field is wrong.
    """
    if not isinstance(value, dict) or set(value) != _FIELDS:
        got = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise MalformedReferenceError(
            f"{name}: 'ref' must be an object of 'key', 'size' and 'sha256'; got "
            f"{reprlib.repr(got)}"
        )
    key, size, sha256 = value["key"], value["size"], value["sha256"]
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise MalformedReferenceError(
            f"{name}: 'key' must be 10 digits (seconds since 1970 when it expires), '-t-' or "
            f"'-s-', and 32 hex digits; got {reprlib.repr(key)}"
        )
    if type(size) is not int or not 0 < size < 2**63:
        raise MalformedReferenceError(
            f"{name}: 'size' must be a number of bytes, at least 1; got {reprlib.repr(size)}"
        )
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise MalformedReferenceError(
            f"{name}: 'sha256' must be 64 lower-case hex digits; got {reprlib.repr(sha256)}"
        )
    return Reference(key, size, sha256)


def own_keys(tensors: Any) -> list[str]:
    """The keys of payloads that belong to one task alone.

    Args:
        tensors: `input_data` or `outputs`, or whatever stands in their place: what is not a
            reference is passed over.
    """
    keys: list[str] = []
    for value in tensors.values() if isinstance(tensors, dict) else ():
        ref = value.get("ref") if isinstance(value, dict) else None
        key = ref.get("key") if isinstance(ref, dict) else None
        found = _KEY.fullmatch(key) if isinstance(key, str) else None
        if found is not None and found["kind"] == "t":
            keys.append(found.string)
    return keys
