"""Check what a caller sent against what the model takes. No I/O.

Enters: `input_data` as it came. Leaves: tensors, and checked references to tensors that lie in a
payload store. Knows neither Triton nor queues.
"""

import re
from collections.abc import Mapping
from typing import Any

from bridge.errors import (
    EmptyBatchError,
    InvalidInputError,
    MalformedTensorError,
    MissingInputError,
    ShapeError,
    SurplusInputError,
    TooManyRowsError,
)
from bridge.forms import Form, parse_tensor
from bridge.references import StoredTensor, is_stored, parse_stored
from bridge.specs import ModelSpec
from bridge.tensors import Tensor, TensorSpec

_VERSION = re.compile(r"[0-9]{1,18}", re.ASCII)


def read_inputs(spec: ModelSpec, input_data: Any) -> tuple[dict[str, Tensor | StoredTensor], Form]:
    """Check `input_data` against `spec`. References are checked before anybody fetches them.

    Returns:
        The tensors by input name, and the form in which they were written: the most compact one
        where a caller mixes them. What is too small for a reference is raw to who sends them.

    Raises:
        InvalidInputError: one of its subclasses.
    """
    if not isinstance(input_data, dict):
        raise MalformedTensorError(
            f"input_data must be an object with a tensor for each input of {spec.name!r} "
            f"({_listed(spec.inputs)}), got {type(input_data).__name__}"
        )
    surplus = sorted(str(key) for key in input_data.keys() - spec.inputs.keys())
    if surplus:
        raise SurplusInputError(
            f"model {spec.name!r} has no input {surplus[0][:128]!r}; it takes "
            f"{_listed(spec.inputs)}"
        )
    tensors: dict[str, Tensor | StoredTensor] = {}
    forms: set[Form] = set()
    for name, wanted in spec.inputs.items():
        if name in input_data:
            tensors[name], form = _read_input(spec, input_data[name], wanted)
            forms.add(form)
        elif not wanted.optional:
            raise MissingInputError(
                f"input {name!r} of model {spec.name!r} is missing; it takes {_listed(spec.inputs)}"
            )
    _check_rows(spec, tensors)
    return tensors, next((form for form in (Form.RAW, Form.DATA) if form in forms), Form.LISTS)


def _read_input(
    spec: ModelSpec, value: Any, wanted: TensorSpec
) -> tuple[Tensor | StoredTensor, Form]:
    if is_stored(value):
        stored = parse_stored(value, wanted)
        _check_shape(spec, wanted, stored.shape)
        return stored, Form.RAW
    return parse_tensor(value, wanted, lambda shape: _check_shape(spec, wanted, shape))


def _check_shape(spec: ModelSpec, wanted: TensorSpec, got: tuple[int, ...]) -> None:
    fits = len(got) == len(wanted.shape) and all(
        size in (-1, actual) for size, actual in zip(wanted.shape, got, strict=True)
    )
    if fits:
        if spec.max_batch_size and got[0] > spec.max_batch_size:
            raise TooManyRowsError(
                f"input {wanted.name!r} has {got[0]} rows; model {spec.name!r} takes at most "
                f"{spec.max_batch_size} in one request: send them in several tasks"
            )
        return
    if spec.max_batch_size and got == (0,):  # a list without a row does not tell their shape
        raise _no_row(wanted.name)
    hint = ""
    if spec.max_batch_size and len(got) == len(wanted.shape) - 1:
        hint = "; the first dimension is the batch: wrap a single row in a list"
    raise ShapeError(
        f"input {wanted.name!r}: model {spec.name!r} takes shape {list(wanted.shape)}, got "
        f"{list(got)}{hint}"
    )


def _check_rows(spec: ModelSpec, tensors: Mapping[str, Tensor | StoredTensor]) -> None:
    if not spec.max_batch_size:
        return
    rows = {name: tensor.shape[0] for name, tensor in tensors.items()}
    if len(set(rows.values())) > 1:
        raise ShapeError(f"inputs of one request must have the same number of rows, got {rows}")
    for name, count in rows.items():
        if count == 0:
            raise _no_row(name)


def _no_row(name: str) -> EmptyBatchError:
    return EmptyBatchError(f"input {name!r} has no row; send at least one")


def checked_version(version: Any) -> str:
    """A served version as Triton names it; "" for the newest.

    Raises:
        InvalidInputError: not a number.
    """
    if version is None or version == "":
        return ""
    text = str(version)
    if isinstance(version, bool) or not _VERSION.fullmatch(text):
        raise InvalidInputError(
            f"version must be a positive number such as 3, got {type(version).__name__}"
        )
    return text


def _listed(specs: dict[str, TensorSpec]) -> str:
    return ", ".join(f"{spec.name}: {spec.datatype} {list(spec.shape)}" for spec in specs.values())
