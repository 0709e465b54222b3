"""One ONNX Runtime session on one device, and how tensors come to it and from it.

Enters: a model file, a `Plan`; then arrays in host memory, or `OrtValue`s on the device. Leaves:
outputs, each where its request's inputs were. Knows nothing of Triton's requests.

Three ways, by `Plan.binding`: `off` hands arrays to `run`; `on` binds inputs and outputs, so that
each crosses to the device and back once, and what is there already does not; `fixed` keeps buffers
for each shape, as CUDA graphs need.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bf16  # beside this file
import engines  # beside this file
import numpy as np
import onnxruntime as ort
import providers  # beside this file

if hasattr(ort, "disable_telemetry_events"):
    ort.disable_telemetry_events()

BF16 = "TYPE_BF16"
HOST_ONLY = frozenset({BF16, "TYPE_BOOL"})
"""What Triton, DLPack and ONNX Runtime do not all mean the same by."""

_MAX_DEFAULT_THREADS = 4
_MOST_SHAPES = 32  # buffers, and a graph, for each; other shapes run without
_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_GRAPH_ID, _NO_GRAPH = "gpu_graph_id", "-1"
_RECORD_NODES = "session.record_ep_graph_assignment_info"

Value = Any
"""A numpy array, in host memory; or an `OrtValue`."""


@dataclass(slots=True)
class _Buffers:
    """Inputs and outputs of one shape, at addresses that do not change."""

    binding: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    options: ort.RunOptions


class Session:
    """A model on a device.

    Args:
        path: `model.onnx`.
        wanted: what it shall run on; all of its providers are there.
        types: Triton's data type of each input and output.

    Raises:
        ConfigError: a provider of the plan could not be set up.
    """

    def __init__(self, path: Path, wanted: providers.Plan, types: Mapping[str, str]) -> None:
        self.plan = wanted = engines.name_engines(wanted, path)
        _load_libraries(wanted)
        # Without this, a provider that fails would leave the model on the CPU in silence.
        self.session = ort.InferenceSession(
            str(path),
            _session_options(wanted),
            providers=[(name, dict(options)) for name, options in wanted.providers],
            enable_fallback=0,
        )
        self.session.disable_fallback()
        providers.check_used(wanted, self.session.get_providers())
        self._types = types
        self._names = [node.name for node in self.session.get_outputs() if node.name in types]
        self._options = _run_options(wanted)
        self._buffers: dict[Any, _Buffers] = {}
        self._run = self._way(set(types.values()))

    def run(self, names: Sequence[str], feed: Mapping[str, Value]) -> dict[str, Value]:
        """Run a batch.

        Args:
            names: the outputs that are wanted.
            feed: all inputs by name; of BF16, arrays of its bits as uint16. All of them arrays,
                or some `OrtValue`s: then outputs are left on the device.
        """
        on_device = any(isinstance(value, ort.OrtValue) for value in feed.values())
        return (self._run_bound if on_device else self._run)(names, feed)

    def describe(self) -> dict[str, Any]:
        """What it runs on: `providers` by precedence, `device`, `binding`, `nodes` of each."""
        return {
            "providers": self.session.get_providers(),
            "device": f"{self.plan.device[0]}:{self.plan.device[1]}",
            "binding": self.plan.binding,
            "graphs": self.plan.graphs,
            "nodes": _nodes(self.session),
        }

    def _way(self, types: set[str]) -> Any:
        if BF16 in types:
            return self._run_bf16  # numpy knows nothing of it
        # Text lives in host memory only, and has no bytes to bind.
        if self.plan.binding == "off" or "TYPE_STRING" in types:
            return self._run_plain
        return self._run_fixed if self.plan.binding == "fixed" else self._run_bound

    def _run_plain(self, names: Sequence[str], feed: Mapping[str, Value]) -> dict[str, Value]:
        return dict(zip(names, self.session.run(names, feed, self._options), strict=True))

    def _run_bound(self, names: Sequence[str], feed: Mapping[str, Value]) -> dict[str, Value]:
        on_device = any(isinstance(value, ort.OrtValue) for value in feed.values())
        stays = {name: on_device and self._types[name] not in HOST_ONLY for name in names}
        binding = self.session.io_binding()
        for name, value in feed.items():
            if isinstance(value, ort.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in names:
            binding.bind_output(name, *(self.plan.device if stays[name] else ("cpu", 0)))
        binding.synchronize_inputs()
        self.session.run_with_iobinding(binding, self._options)
        binding.synchronize_outputs()
        values = zip(names, binding.get_outputs(), strict=True)
        return {name: value if stays[name] else value.numpy() for name, value in values}

    def _run_fixed(self, names: Sequence[str], feed: Mapping[str, Value]) -> dict[str, Value]:
        key = tuple(sorted((name, array.shape) for name, array in feed.items()))
        buffers = self._buffers.get(key)
        if buffers is None:
            if len(self._buffers) >= _MOST_SHAPES or not all(a.size for a in feed.values()):
                return self._run_bound(names, feed)
            outputs = self._run_bound(self._names, feed)
            self._buffers[key] = self._make_buffers(feed, outputs)
            return {name: outputs[name] for name in names}
        for name, array in feed.items():
            buffers.inputs[name].update_inplace(np.ascontiguousarray(array))
        self.session.run_with_iobinding(buffers.binding, buffers.options)
        # A copy: the buffer is written over by the next batch.
        return {name: np.array(buffers.outputs[name].numpy()) for name in names}

    def _make_buffers(
        self, feed: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> _Buffers:
        """Buffers for the shapes of a batch that has run, which told those of its outputs."""
        made = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(
                array.shape, array.dtype.type, *self.plan.device
            )
            for name, array in {**feed, **outputs}.items()
        }
        binding = self.session.io_binding()
        for name in feed:
            binding.bind_ortvalue_input(name, made[name])
        for name in outputs:
            binding.bind_ortvalue_output(name, made[name])
        options = _run_options(self.plan, graph_id=str(len(self._buffers) + 1))
        return _Buffers(binding, {n: made[n] for n in feed}, {n: made[n] for n in outputs}, options)

    def _run_bf16(self, names: Sequence[str], feed: Mapping[str, Value]) -> dict[str, Value]:
        values = {
            name: bf16.make_value(array)
            if self._types[name] == BF16
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in feed.items()
        }
        results = self.session.run_with_ort_values(names, values, self._options)
        return {
            name: bf16.read_value(value._ortvalue)  # noqa: SLF001  # the wrapper hides `data_ptr`
            if self._types[name] == BF16
            else value.numpy()
            for name, value in zip(names, results, strict=True)
        }


def device_value(capsule: Any) -> ort.OrtValue:
    """What a DLPack capsule holds, where it lies, without a copy."""
    return ort.OrtValue.from_dlpack(capsule)


def device_capsule(value: ort.OrtValue) -> Any:
    """A DLPack capsule of what an `OrtValue` holds, without a copy."""
    return value._ortvalue.to_dlpack()  # noqa: SLF001  # the wrapper does not offer it


def _load_libraries(wanted: providers.Plan) -> None:
    """Load what NVIDIA's wheels hold; what lies on the system is found anyway."""
    if providers.CUDA in wanted.names and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    if providers.TENSORRT in wanted.names:
        with suppress(ImportError):
            importlib.import_module("tensorrt_libs")  # loads them as it is imported


def _session_options(wanted: providers.Plan) -> ort.SessionOptions:
    asked, options = wanted.session, ort.SessionOptions()
    # Half the cores: Triton itself, the workers and other models need the rest.
    cores = len(os.sched_getaffinity(0))
    options.intra_op_num_threads = asked["threads"] or max(1, min(_MAX_DEFAULT_THREADS, cores // 2))
    options.inter_op_num_threads = asked["inter_threads"] or 1
    if asked["parallel"]:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = _LEVELS[asked["level"]]
    options.enable_cpu_mem_arena = asked["arena"]
    options.enable_mem_pattern = asked["pattern"]
    # Waiting threads sleep: on a small machine a spinning one takes a core from Triton.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(_RECORD_NODES, "1")
    for name, value in asked["entries"].items():
        options.add_session_config_entry(name, value)
    options.log_severity_level = 3
    return options


def _run_options(wanted: providers.Plan, graph_id: str = _NO_GRAPH) -> ort.RunOptions:
    options = ort.RunOptions()
    for name, value in wanted.run_entries.items():
        options.add_run_config_entry(name, value)
    if wanted.graphs:
        options.add_run_config_entry(_GRAPH_ID, graph_id)
    return options


def _nodes(session: ort.InferenceSession) -> dict[str, int]:
    """How many of the model's nodes each provider computes; empty if this version does not tell."""
    counts: dict[str, int] = {}
    with suppress(AttributeError, RuntimeError):
        for part in session.get_provider_graph_assignment_info():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts
