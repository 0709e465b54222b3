"""The models of a run, the rows that are sent to them, and what they must answer.

Leaves: a Triton repository; rows as a pure function of their serial numbers, so that a ledger of
any length keeps numbers only; answers of onnxruntime in this process. The models differ in
their weights, so that the answer of one is wrong for the other.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bridge.tensors import Array
from bridgechaos.disk import mount, unmount

STEADY, MOODY = "steady", "moody"
FEATURES, OUTPUTS, BATCH = 16, 4, 32
_SEEDS = {STEADY: 7, MOODY: 8}
FAIL, CRASH, SLOW = 1.0, 2.0, 3.0
"""Wishes that `moody` grants: answer with an error, kill its own process, take its time."""

_CONFIG = """\
backend: "python"
max_batch_size: {batch}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {features} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {outputs} ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
dynamic_batching {{ }}
"""


class Models:
    """`steady` and `moody`: other weights each, and one diary of all rows that were run."""

    def __init__(self, folder: Path, *, small_disk: bool = False) -> None:
        """Write them.

        Args:
            folder: an empty one.
            small_disk: put the repository on a disk of its own that can be filled.
        """
        self.repository = folder / "repository"
        self.repository.mkdir()
        self.no_small_disk = mount(self.repository) if small_disk else "not asked for"
        """Why there is none; None: there is one."""
        self.slow_file = folder / "slow"
        """As long as it exists, `moody` is slow."""
        self._diary = folder / "diary"
        self._diary.touch()
        self._sessions = {name: self._written(name, seed) for name, seed in _SEEDS.items()}

    def close(self) -> None:
        """Take away the small disk, before the folder goes."""
        unmount(self.repository)

    def answers(self, model: str, serials: Sequence[int]) -> Array:
        """What onnxruntime answers for the rows of these numbers, [rows, OUTPUTS].

        Raises:
            KeyError: no model is called so.
        """
        answers: Array = self._sessions[model].run(["y"], {"x": rows(serials)})[0]
        return answers

    def executions(self, serials: Sequence[int]) -> Array:
        """How often each of these rows was run, [rows]."""
        ran = np.frombuffer(self._diary.read_bytes(), "<u4")
        top = max((*serials, int(ran.max(initial=0)))) + 1
        counts: Array = np.bincount(ran, minlength=top)[np.asarray(serials, int)]
        return counts

    def _written(self, name: str, seed: int) -> onnxruntime.InferenceSession:
        version = self.repository / name / "1"
        version.mkdir(parents=True)
        config = _CONFIG.format(batch=BATCH, features=FEATURES, outputs=OUTPUTS)
        (version.parent / "config.pbtxt").write_text(config)
        shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")
        (version / "places.txt").write_text(f"{self._diary}\n{self.slow_file}\n")
        path = str(version / "model.onnx")
        onnx.save(_model(seed), path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # others would spin, on the cores of what is tried
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def rows(serials: Sequence[int], wish: float = 0.0) -> Array:
    """The rows of these numbers, [rows, FEATURES] FP32: number, wish, and what follows from both.

    Numbers below 2^24 are exact.
    """
    number = np.asarray(serials, np.float64)[:, None]
    waves = np.sin(number * np.arange(1, FEATURES - 1) * 0.7310585)
    wishes = np.full_like(number, wish)
    return np.hstack([number, wishes, waves]).astype(np.float32)


def alike(outputs: Array, answers: Array) -> bool:
    """Whether outputs are those answers. The first column is the row's number, and exact."""
    return (
        outputs.shape == answers.shape
        and bool(np.array_equal(outputs[:, 0], answers[:, 0]))
        and bool(np.allclose(outputs, answers, rtol=1e-4, atol=1e-4))
    )


def _model(seed: int) -> onnx.ModelProto:
    """The row's number, and OUTPUTS - 1 mixtures of what follows it, bent by a tanh."""
    weights = np.random.default_rng(seed).standard_normal((FEATURES, OUTPUTS - 1))
    weights[:2] = 0
    nodes = [
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["number"]),
        helper.make_node("MatMul", ["x", "weights"], ["mixed"]),
        helper.make_node("Tanh", ["mixed"], ["bent"]),
        helper.make_node("Concat", ["number", "bent"], ["y"], axis=1),
    ]
    tensors = [
        numpy_helper.from_array(weights.astype(np.float32), "weights"),
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
    ]
    graph = helper.make_graph(
        nodes,
        "chaos",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, FEATURES])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, OUTPUTS])],
        tensors,
    )
    # Versions that any onnxruntime of the last years reads.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
