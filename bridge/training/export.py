"""From a trained network to `model.onnx`, and the proof that both compute the same.

Runs in the training process only. The opset is 18 (IR version 10), which ONNX Runtime has run
since 1.14 (IR 10: 1.18), so both the wheel's and that of NVIDIA's containers since Triton 2.47.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from bridge.errors import ExportError
from bridge.tensors import Array
from bridge.training.architectures import Network
from bridge.training.request import Task
from bridge.training.tokenizer import OPSET, Tokenizer
from bridge.training.tolerances import tolerance_for

MODEL_FILE = "model.onnx"
ONE_FILE_BYTES = 1_500_000_000  # protobuf ends at 2 GB; beyond, weights lie beside the model
_BATCH_SIZES = (1, 2, 7, 32)
_SET = 0.5  # probability from which on a label counts as set


def export(
    network: Network,
    rows: Array,
    names: tuple[str, str],
    folder: Path,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write the network as ONNX with a batch dimension of any size.

    Args:
        network: trained, on the CPU, in eval mode.
        rows: as the network takes them, at least one; only their shape matters.
        names: of the input and the output.
        folder: gets `model.onnx` (and its weights beside it if they are large).
        tokenizer: makes rows of text, which the exported model then takes.

    Raises:
        ExportError: the network cannot be written, or only for one batch size.
    """
    # Two rows: torch takes a size of 1 for a constant.
    example = torch.from_numpy(np.concatenate([rows[:1], rows[:1]]))
    path = folder / MODEL_FILE
    try:
        program = _export(_Answer(network).eval(), example, names)
        program.save(str(path), external_data=weight_bytes(network) > ONE_FILE_BYTES)
        if tokenizer is not None:
            tokenizer.put_before(path)
        tidy(path)
    except Exception as error:
        raise ExportError(
            f"the network cannot be exported to ONNX with a batch of any size: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    return path


def weight_bytes(network: Network) -> int:
    """Size of all that the network has learned, in float32."""
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def compare(
    network: Network, path: Path, rows: Array, most_rows: int, asked: Array | None = None
) -> tuple[dict[str, Any], Array]:
    """Run the same rows through torch and ONNX Runtime.

    Args:
        network: as for `export`.
        path: the exported model.
        rows: real rows, as the network takes them, at least one.
        most_rows: in one batch.
        asked: the same rows as callers send them; by default they send `rows`.

    Returns:
        `rows`, `batch_sizes`, `max_abs_difference`, `tolerance` and, for classes,
        `class_agreement` (share of rows); and torch's answers, float32 [rows, outputs].

    Raises:
        ExportError: they differ by more than the tolerance.
    """
    with torch.inference_mode():
        wanted = network.answer(torch.from_numpy(rows)).numpy()
    ask = open_model(path)
    sizes = sorted({min(size, most_rows, len(rows)) for size in _BATCH_SIZES})
    worst, agreed, sent = 0.0, 1.0, rows if asked is None else asked
    for size in sizes:
        pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
        found = np.concatenate([ask(piece) for piece in pieces])
        worst = max(worst, float(np.abs(found - wanted).max()))
        agreed = min(agreed, agreement(network.task, found, wanted))
    tolerance = tolerance_for(wanted)
    if not worst <= tolerance:  # also when it is NaN
        raise ExportError(
            f"the exported model differs from the trained one by {worst:g}, more than {tolerance:g}"
        )
    parity: dict[str, Any] = {
        "rows": len(rows),
        "batch_sizes": sizes,
        "max_abs_difference": worst,
        "tolerance": tolerance,
    }
    return parity | ({"class_agreement": agreed} if network.task != "regression" else {}), wanted


def open_model(path: Path) -> Callable[[Array], Array]:
    """What ONNX Runtime answers, on the CPU: from rows [batch, ...] to float32 [batch, outputs]."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; warnings are about its own optimisations
    # Its threads would turn in circles for work, on processors that others share.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda rows: session.run(None, {name: rows})[0]


def agreement(task: Task, found: Array, wanted: Array) -> float:
    """Share of rows with the same class, or the same labels."""
    if task == "multi-label":
        return float(((found >= _SET) == (wanted >= _SET)).all(axis=1).mean())
    return float((found.argmax(1) == wanted.argmax(1)).mean())


class _Answer(torch.nn.Module):
    """The exporter takes a module's `forward`: this one's is `Network.answer`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.network.answer(rows)


def _export(module: torch.nn.Module, example: torch.Tensor, names: tuple[str, str]) -> Any:
    # It warns of each operator of torchvision that it cannot find; nothing here uses them.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # torch's own exporter calls a name that torch deprecates.
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        return torch.onnx.export(
            module,
            (example,),
            input_names=names[:1],
            output_names=names[1:],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def tidy(path: Path) -> None:
    """Drop what the tools note of the source (paths on this machine), and check the rest."""
    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        del part.metadata_props[:]
    onnx.save(model, path)
    onnx.checker.check_model(path)
    for value in (*model.graph.input, *model.graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ValueError(f"{value.name!r} has a batch dimension of fixed size")


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else "no details"
