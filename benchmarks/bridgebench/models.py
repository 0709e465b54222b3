"""The models of a run, as ONNX files in a Triton repository, and what they must answer.

Made with onnx.helper: no torch. Leaves: a repository folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bridge.repository import Signature, render_config
from bridge.tensors import Array, TensorSpec

FEATURES, HIDDEN, CLASSES = 256, 512, 10
MLP, WIDE, IMAGE, SIZED = "mlp", "mlp_1024", "image", "sized"
BATCH, WIDE_BATCH, IMAGE_BATCH, SIZED_BATCH = 64, 1024, 8, 8
_SAMPLES = 64


class Models:
    """A repository with the models below, and rows of the MLP with their right answers.

    `mlp` and `mlp_1024`: 256 -> 512 -> 10, ReLU between; they differ in `max_batch_size`.
    `image`: the mean of each channel of [3, 224, 224]: as cheap as a model of that input can be.
    `sized`: the mean of a vector of any length.
    """

    names = (MLP, WIDE, IMAGE, SIZED)

    def __init__(self, repository: Path) -> None:
        """Write them.

        Args:
            repository: an empty folder.
        """
        self.repository = repository
        path = save_mlp(repository, MLP, BATCH)
        save_mlp(repository, WIDE, WIDE_BATCH)
        _save_mean(repository, IMAGE, [3, 224, 224], axes=[2, 3], outputs=[3], batch=IMAGE_BATCH)
        _save_mean(repository, SIZED, [-1], axes=[1], outputs=[], batch=SIZED_BATCH)
        random = np.random.default_rng(0)
        self.rows: Array = random.standard_normal((_SAMPLES, FEATURES)).astype(np.float32)
        """`_SAMPLES` rows of the MLP."""
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self._answers: Array = session.run(["y"], {"x": self.rows})[0]

    def row(self, index: int) -> Array:
        """The row of the message with this number, [1, 256]."""
        at = index % _SAMPLES
        return self.rows[at : at + 1]

    def are_right(self, outputs: Array) -> bool:
        """Whether `outputs` are what onnxruntime answers for all `rows`."""
        return _alike(outputs, self._answers)

    def is_right(self, index: int, output: Array) -> bool:
        """Whether `output` is what onnxruntime answers for that row."""
        at = index % _SAMPLES
        return _alike(output, self._answers[at : at + 1])


def _alike(output: Array, answer: Array) -> bool:
    # Of other shapes numpy might make one, and an empty output is close to anything.
    same = output.shape == answer.shape
    return same and bool(np.allclose(output, answer, rtol=1e-3, atol=1e-4))


def save_mlp(repository: Path, name: str, max_batch_size: int) -> Path:
    """Write an MLP with the same weights under any name; returns its ONNX file."""
    random = np.random.default_rng(1)

    def weights(label: str, *shape: int) -> TensorProto:
        values = random.standard_normal(shape) / np.sqrt(shape[0])
        return numpy_helper.from_array(values.astype(np.float32), label)

    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Gemm", ["h2", "w2", "b2"], ["y"]),
    ]
    tensors = [
        weights("w1", FEATURES, HIDDEN),
        weights("b1", HIDDEN),
        weights("w2", HIDDEN, CLASSES),
        weights("b2", CLASSES),
    ]
    return _save(repository, name, nodes, tensors, [FEATURES], [CLASSES], max_batch_size)


def _save_mean(  # noqa: PLR0913 - a model's parts
    repository: Path,
    name: str,
    inputs: Sequence[int],
    *,
    axes: Sequence[int],
    outputs: Sequence[int],
    batch: int,
) -> None:
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=axes, keepdims=int(not outputs))
    _save(repository, name, [node], [], inputs, outputs or [1], batch)


def _save(  # noqa: PLR0913, PLR0917 - a model's parts
    repository: Path,
    name: str,
    nodes: Sequence[NodeProto],
    weights: Sequence[TensorProto],
    inputs: Sequence[int],
    outputs: Sequence[int],
    max_batch_size: int,
) -> Path:
    def info(label: str, shape: Sequence[int]) -> Any:
        sizes = [None, *(size if size >= 0 else None for size in shape)]
        return helper.make_tensor_value_info(label, TensorProto.FLOAT, sizes)

    graph = helper.make_graph(nodes, name, [info("x", inputs)], [info("y", outputs)], weights)
    # Versions that any onnxruntime of the last years reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    signature = Signature(
        inputs=(TensorSpec("x", "FP32", (-1, *inputs)),),
        outputs=(TensorSpec("y", "FP32", (-1, *outputs)),),
        max_batch_size=max_batch_size,
    )
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(render_config(signature))
    path = folder / "1" / "model.onnx"
    onnx.save(model, str(path))
    return path
