"""Numpy arrays <-> what messages and results carry, beside the message where they are large.

Enters: a caller's inputs, or the return value of `ml_inference`. Leaves: the other side's form of
it. Knows the payload store's door; neither queues nor Redis.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge.errors import InvalidInputError, NoPayloadStoreError
from bridge.forms import read_entry, wire_form
from bridge.forms.lists import guessed_array
from bridge.payloads import Payloads
from bridge.references import StoredTensor, is_stored, read_stored
from bridge.tensors import Array, raw_view


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """What a model answered. `outputs` are numpy arrays by output name, rows first."""

    model_name: str
    model_version: str
    outputs: dict[str, Array]


async def send_inputs(inputs: Mapping[str, Any], payloads: Payloads | None) -> dict[str, Any]:
    """The entries of a message; large arrays are uploaded, side by side, for this task alone.

    Args:
        inputs: numpy arrays, nested lists, or uploaded tensors, by input name.
        payloads: where large arrays go; None: into the message.

    Raises:
        InvalidInputError: an array has a dtype that no model takes, or `inputs` is no mapping.
        PayloadError: an array could not be uploaded.
    """
    if not isinstance(inputs, Mapping):
        raise InvalidInputError(
            f"inputs is a {type(inputs).__name__}: give each by its name, as {{'x': array}}"
        )
    if payloads is None:
        return encode_inputs(inputs)
    large: dict[str, tuple[str, tuple[int, ...], bytes | memoryview]] = {}
    for name, value in inputs.items():
        if isinstance(value, np.ndarray):
            datatype, data = raw_view(value)
            if len(data) > payloads.threshold:
                large[name] = (datatype, value.shape, data)
    stored = await payloads.put("input", large) if large else {}
    return encode_inputs({**inputs, **stored})


async def receive_reply(reply: dict[str, Any], payloads: Payloads | None) -> InferenceResult:
    """The return value of `ml_inference`, with its large outputs fetched, side by side.

    Raises:
        NoPayloadStoreError: an output is in a store, and none is set.
        PayloadError: an output could not be fetched.
    """
    outputs: dict[str, Any] = reply["outputs"]
    stored = {name: read_stored(name, it) for name, it in outputs.items() if is_stored(it)}
    if not stored:
        return decode_reply(reply)
    if payloads is None:
        raise NoPayloadStoreError(
            f"output {next(iter(stored))!r} is in a payload store: set BRIDGE_PAYLOAD_URL to the "
            "workers' one"
        )
    fetched = await payloads.get("output", stored)
    arrays = {name: tensor.to_array() for name, tensor in fetched.items()}
    return decode_reply({**reply, "outputs": {**outputs, **arrays}})


def encode_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as raw bytes and uploaded tensors as references.

    Nested lists stay as they are, for the model's dtype to be applied.

    Raises:
        InvalidInputError: an array has a dtype that no model takes.
    """
    return {name: _entry(value) for name, value in inputs.items()}


def decode_reply(reply: dict[str, Any]) -> InferenceResult:
    """The return value of `ml_inference` with numpy arrays in place of what was sent."""
    return InferenceResult(
        model_name=reply["model_name"],
        model_version=reply["model_version"],
        outputs={
            name: read_entry(value) if isinstance(value, dict) else guessed_array(value)
            for name, value in reply["outputs"].items()
        },
    )


def _entry(value: Any) -> Any:
    if isinstance(value, StoredTensor):
        return value.written()
    return wire_form(value) if isinstance(value, np.ndarray) else value
