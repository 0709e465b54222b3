"""What an answer is worth: beside what onnxruntime answers here, or what a training had to come to.

Enters: what a caller was given or Redis has, and the entry that asked, where it is known. Leaves:
`Found`. Never raises for what stands in an answer.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bridge.client import InferenceResult, decode_reply
from bridge.errors import BridgeError
from bridge.messages import decode_result
from bridgechaos.entries import Entry, Found
from bridgechaos.models import OUTPUTS, Models, alike

_SHOWN = 200
_UNREADABLE = (BridgeError, AttributeError, IndexError, KeyError, TypeError, ValueError)


def read_record(models: Models, entry: Entry | None, value: bytes) -> Found:
    """A result as it lies in Redis."""
    try:
        result = decode_result(value)
        if result.is_err and result.error is not None:
            return read_error(result.error)
        answer = result.return_value
        if (
            entry is None and "outputs" not in answer
        ):  # a training's; its client was not told its id
            return Found(version=f"{answer['model_name']}/{answer['model_version']}")
        if entry is None or not entry.model:
            answer = decode_reply(answer)
    except _UNREADABLE as error:
        return _unreadable(error)
    return read_answer(models, entry, answer)


def read_error(error: BaseException) -> Found:
    """A task that failed."""
    return Found(type(error).__name__, str(error)[:_SHOWN])


def read_answer(models: Models, entry: Entry | None, answer: Any) -> Found:
    """A task that succeeded.

    Args:
        models: of the run.
        entry: None: nobody was told this task's id.
        answer: an `InferenceResult`; of a training its return value.
    """
    try:
        if entry is not None and entry.model:
            return _read_training(entry, answer)
        return _read_inference(models, entry, answer)
    except _UNREADABLE as error:
        return _unreadable(error)


def _read_inference(models: Models, entry: Entry | None, answer: InferenceResult) -> Found:
    model = answer.model_name
    if entry is not None and model != entry.asked:
        return Found(text=f"{model} answered for {entry.asked}", right=False)
    outputs = np.asarray(answer.outputs["y"], np.float32)
    # A client that was not told its id: the rows tell which they are.
    serials = entry.serials if entry else outputs.reshape(-1, OUTPUTS)[:, 0].astype(int).tolist()
    right = bool(serials) and alike(outputs, models.answers(model, serials))
    return Found(text="" if right else f"{model}: {outputs.tolist()}"[:_SHOWN], right=right)


def _read_training(entry: Entry, answer: Mapping[str, Any]) -> Found:
    version = f"{answer['model_name']}/{answer['model_version']}"
    right = answer["metrics"] == entry.metrics and answer["model_name"] == entry.model
    return Found(text="" if right else f"{answer['metrics']}", right=right, version=version)


def _unreadable(error: Exception) -> Found:
    return Found(text=f"unreadable: {error!r}"[:_SHOWN], right=False)
