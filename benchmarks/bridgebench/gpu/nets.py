"""The networks that are measured: a CNN and a transformer encoder, in FP16, made with onnx.helper.

Weights are random, scaled so that FP16 does not overflow. No torch. Leaves: ONNX models whose input
is `x` and whose output is `y`, with a batch of any size.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bridge.repository import Signature
from bridge.tensors import Array, TensorSpec

CLASSES = 10
_OPSET, _IR = 17, 9  # versions that any onnxruntime of the last years reads
_VALUES = {"UINT8": 256, "INT64": 1000}


@dataclass(frozen=True, slots=True)
class CnnSize:
    """A residual network of bottleneck blocks, as ResNet-50 is by default."""

    image: int = 224
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64


@dataclass(frozen=True, slots=True)
class EncoderSize:
    """A transformer encoder, of 100 million parameters by default."""

    vocabulary: int = 20_000
    length: int = 128
    layers: int = 12
    width: int = 768
    heads: int = 12


@dataclass(frozen=True, slots=True)
class Net:
    """A model and what callers send it."""

    name: str
    title: str
    model: onnx.ModelProto
    datatype: str
    shape: tuple[int, ...]
    parameters: int

    def rows(self, count: int) -> Array:
        """Random rows as callers send them, [count, *shape]."""
        kind = {"UINT8": np.uint8, "INT64": np.int64}[self.datatype]
        random = np.random.default_rng(count)
        return random.integers(0, _VALUES[self.datatype], (count, *self.shape)).astype(kind)

    def signature(self, max_batch_size: int) -> Signature:
        """As the repository takes it."""
        return Signature(
            (TensorSpec("x", self.datatype, (-1, *self.shape)),),
            (TensorSpec("y", "FP16", (-1, CLASSES)),),
            max_batch_size,
        )


@dataclass(slots=True)
class _Graph:
    """Nodes and weights as they are added; each method returns the new tensor's name."""

    nodes: list[Any] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    parameters: int = 0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, *shape: int, fan_in: float) -> str:
        """Random, such that what goes through keeps its size."""
        values = self.random.standard_normal(shape, np.float32) / np.sqrt(fan_in)
        return self.constant(values.astype(np.float16), learned=True)

    def constant(self, values: Array, *, learned: bool = False) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        self.parameters += values.size if learned else 0
        return name

    def ones(self, size: int) -> str:
        return self.constant(np.ones(size, np.float16), learned=True)

    def zeros(self, size: int) -> str:
        return self.constant(np.zeros(size, np.float16), learned=True)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        product = self.add("MatMul", x, self.weight(inputs, outputs, fan_in=inputs))
        return self.add("Add", product, self.zeros(outputs))

    def shaped(self, x: str, *shape: int) -> str:
        """0: as it is; -1: what is left."""
        return self.add("Reshape", x, self.constant(np.array(shape, np.int64)))


def cnn(size: CnnSize | None = None) -> Net:
    """Takes images of bytes, UINT8 [batch, 3, image, image]."""
    size = size or CnnSize()
    graph = _Graph()
    x = graph.add("Cast", "x", to=TensorProto.FLOAT16)
    x = graph.add("Mul", x, graph.constant(np.array(1 / 128, np.float16)))
    x = _conv(graph, x, 3, size.width, 7, 2)
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = size.width
    for stage, count in enumerate(size.blocks):
        width = size.width * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            x = _bottleneck(graph, x, channels, width, stride)
            channels = 4 * width
    x = graph.add("GlobalAveragePool", x)
    x = graph.dense(graph.add("Flatten", x), channels, CLASSES)
    shape = (3, size.image, size.image)
    return _net(graph, x, "gpu_cnn", "CNN", "UINT8", shape)


def _bottleneck(graph: _Graph, x: str, channels: int, width: int, stride: int) -> str:
    out = 4 * width
    inner = _conv(graph, x, channels, width, 1, 1)
    inner = _conv(graph, inner, width, width, 3, stride)
    inner = _conv(graph, inner, width, out, 1, 1, active=False)
    aside = x if channels == out else _conv(graph, x, channels, out, 1, stride, active=False)
    # Sums of many blocks would leave FP16's range.
    both = graph.add("Mul", graph.add("Add", inner, aside), graph.constant(np.array(0.7, "f2")))
    return graph.add("Relu", both)


def _conv(  # noqa: PLR0913, PLR0917 - a convolution's parts
    graph: _Graph,
    x: str,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    *,
    active: bool = True,
) -> str:
    # Half of what a ReLU gets is lost.
    fan_in = inputs * kernel * kernel / 2
    weight = graph.weight(outputs, inputs, kernel, kernel, fan_in=fan_in)
    x = graph.add(
        "Conv",
        x,
        weight,
        graph.zeros(outputs),
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[kernel // 2] * 4,
    )
    return graph.add("Relu", x) if active else x


def encoder(size: EncoderSize | None = None) -> Net:
    """Takes tokens, INT64 [batch, length]."""
    size = size or EncoderSize()
    graph = _Graph()
    table = graph.weight(size.vocabulary, size.width, fan_in=1)
    x = graph.add("Gather", table, "x")
    x = graph.add("Add", x, graph.weight(size.length, size.width, fan_in=1))
    for _ in range(size.layers):
        x = _normed(graph, graph.add("Add", x, _attention(graph, x, size)), size.width)
        inner = graph.add("Relu", graph.dense(x, size.width, 4 * size.width))
        inner = graph.dense(inner, 4 * size.width, size.width)
        x = _normed(graph, graph.add("Add", x, inner), size.width)
    x = graph.add("ReduceMean", x, axes=[1], keepdims=0)
    x = graph.dense(x, size.width, CLASSES)
    return _net(graph, x, "gpu_encoder", "transformer encoder", "INT64", (size.length,))


def _attention(graph: _Graph, x: str, size: EncoderSize) -> str:
    each = size.width // size.heads

    def heads(order: list[int]) -> str:
        y = graph.shaped(graph.dense(x, size.width, size.width), 0, 0, size.heads, each)
        return graph.add("Transpose", y, perm=order)

    scores = graph.add("MatMul", heads([0, 2, 1, 3]), heads([0, 2, 3, 1]))
    scores = graph.add("Mul", scores, graph.constant(np.array(each**-0.5, np.float16)))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), heads([0, 2, 1, 3]))
    mixed = graph.shaped(graph.add("Transpose", mixed, perm=[0, 2, 1, 3]), 0, 0, size.width)
    return graph.dense(mixed, size.width, size.width)


def _normed(graph: _Graph, x: str, width: int) -> str:
    return graph.add("LayerNormalization", x, graph.ones(width), graph.zeros(width), axis=-1)


def _net(  # noqa: PLR0913, PLR0917 - a net's parts
    graph: _Graph, y: str, name: str, title: str, datatype: str, shape: tuple[int, ...]
) -> Net:
    graph.nodes.append(helper.make_node("Identity", [y], ["y"]))
    kind = {"UINT8": TensorProto.UINT8, "INT64": TensorProto.INT64}[datatype]
    made = helper.make_graph(
        graph.nodes,
        name,
        [helper.make_tensor_value_info("x", kind, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", CLASSES])],
        graph.weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    return Net(name, title, model, datatype, shape, graph.parameters)
