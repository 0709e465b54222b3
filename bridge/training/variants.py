"""FP16 and INT8 variants of an exported network, and what they lose. Training process only.

Enters: `model.onnx` in float32, without a tokenizer in front (onnx cannot infer shapes through
one). Leaves: the same network in other numbers, with the same inputs and outputs; or ExportError.
Both are made by ONNX Runtime's own tools. The normalisation of raw rows and of answers stays in
float32: what callers send may be larger than 16 bits hold.

FP16: weights and computing in half. Processors store halves and compute in float32; GPUs gain.

INT8: Q and DQ nodes around each layer with learned weights, with ranges that are fixed here, on
training rows. ONNX Runtime could find the ranges as it serves ("dynamic"), but then takes them
over a whole batch: a neighbour's row would change a caller's answer. The last layer stays in
float32, as its answers would have 256 steps only, and none beyond what training rows had. Weights
have 7 bits, as sums of 8 overflow on processors without VNNI, so that these answer otherwise.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from bridge.errors import ExportError, InvalidTrainingRequestError
from bridge.tensors import Array
from bridge.training.architectures import Network
from bridge.training.export import ONE_FILE_BYTES, first_line, tidy, weight_bytes
from bridge.training.request import Variant
from bridge.training.streams import Inputs
from bridge.training.tolerances import GPU_TOLERANCE

TOLERANCES: dict[Variant, float] = {"fp16": GPU_TOLERANCE, "int8": 5e-2}
"""Largest difference allowed between a variant's answers here and in Triton: a GPU may round each
layer otherwise."""

_FLOAT32_AROUND = ("input_mean", "input_scale", "value_mean", "value_scale")
_LEARNED = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # their second input holds the weights
_TABLE = "Gather"  # of embeddings; its first does
_CALIBRATION_ROWS, _CALIBRATION_BATCH = 512, 32


def check_variant(network: Network, variant: Variant) -> None:
    """Refuse what cannot be made, before the network is trained.

    Raises:
        InvalidTrainingRequestError: the network is too large for ONNX Runtime's tools.
    """
    size = weight_bytes(network)
    if variant != "fp32" and size > ONE_FILE_BYTES:
        raise InvalidTrainingRequestError(
            f"model_config.variant {variant!r}: the network's weights take {size / 1e9:.1f} GB, "
            f'and at most {ONE_FILE_BYTES / 1e9:.1f} GB can be converted; use "fp32"'
        )


def make_variant(variant: Variant, source: Path, target: Path, rows: Inputs) -> None:
    """Write a variant of an exported network.

    Args:
        variant: "fp16" or "int8".
        source: the network in float32; it takes `rows`.
        target: gets the variant.
        rows: to train on [rows, ...]; some of them set the ranges of INT8.

    Raises:
        ExportError: it cannot be made of this network.
    """
    try:
        if variant == "fp16":
            _halve(source, target)
        else:
            _quantise(source, target, rows)
        tidy(target)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"no {variant} variant can be made of this network: {type(error).__name__}: "
            f'{first_line(error)}; use model_config.variant "fp32"'
        ) from error


def _halve(source: Path, target: Path) -> None:
    model = onnx.load(source)
    names = {node.name for node in model.graph.node}
    kept = [node.name for node in model.graph.node if _is_around(node, model.graph)]
    halved = ONNXModel(convert_float_to_float16(model, keep_io_types=True, node_block_list=kept))
    _spare_way_through_halves(halved.model.graph, names)
    halved.topological_sort()  # the converter adds its casts at the end
    onnx.save(halved.model, target)


def _spare_way_through_halves(graph: onnx.GraphProto, present: set[str]) -> None:
    """Where the converter casts to halves and back to float32, keep the float32.

    It does so between the model's inputs and outputs, and nodes that stay in float32.

    Args:
        graph: converted.
        present: names of the nodes that it had before; the casts among them may be of whole
            numbers.
    """
    added = [node for node in graph.node if node.op_type == "Cast" and node.name not in present]
    halves = {
        node.output[0]: node for node in added if node.attribute[0].i == onnx.TensorProto.FLOAT16
    }
    for node in added:
        if node.input[0] in halves and node.output[0] not in halves:
            node.input[0] = halves[node.input[0]].input[0]
    used = {name for node in graph.node for name in node.input}
    for name in halves.keys() - used:
        graph.node.remove(halves[name])


def _quantise(source: Path, target: Path, rows: Inputs) -> None:
    nodes = _layers(onnx.load(source).graph)
    if not nodes:
        raise ExportError(
            "there is nothing to make INT8 of: the network has no layer with learned weights "
            'beside its last, which stays in float32; use model_config.variant "fp16" or "fp32"'
        )
    shaped = target.with_suffix(".shaped")
    quant_pre_process(source, shaped, skip_optimization=True, skip_symbolic_shape=True)
    quantization.quantize_static(
        shaped,
        target,
        _Calibration(onnx.load(source).graph.input[0].name, rows),
        quant_format=quantization.QuantFormat.QDQ,
        # Elsewhere no ranges are looked for: masks of attention hold infinities.
        op_types_to_quantize=[*_LEARNED, _TABLE],
        nodes_to_quantize=nodes,
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    shaped.unlink()


def _is_around(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether it is of the normalisation around the network, or gives the answers."""
    names = [f"network.{name}" for name in _FLOAT32_AROUND]
    outputs = [output.name for output in graph.output]
    return any(name in names for name in node.input) or any(name in outputs for name in node.output)


def _layers(graph: onnx.GraphProto) -> list[str]:
    """Nodes with learned weights but the last layer's, in order."""
    weights = {each.name for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    layers = [node for node in graph.node if node.op_type in _LEARNED and node.input[1] in weights]
    tables = [node for node in graph.node if node.op_type == _TABLE and node.input[0] in weights]
    return [node.name for node in [*tables, *layers[:-1]]]


# onnxruntime has no types.
class _Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Training rows, spread over all of them, as ONNX Runtime's tools take them."""

    def __init__(self, name: str, rows: Inputs) -> None:
        self._name, self._rows = name, rows
        self._batches = self._read()

    def get_next(self) -> dict[str, Array] | None:
        """The next batch by input name; None: there is none."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}

    def _read(self) -> Iterator[Array]:
        count = min(_CALIBRATION_ROWS, len(self._rows))
        picked = np.linspace(0, len(self._rows) - 1, count).astype(np.int64)
        for start in range(0, count, _CALIBRATION_BATCH):
            yield self._rows[picked[start : start + _CALIBRATION_BATCH]]
