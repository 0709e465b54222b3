"""Triton's Python-based backend named `onnxruntime`.

Serves what NVIDIA's native backend of that name serves: `config.pbtxt` with
`backend: "onnxruntime"` and `<version>/model.onnx`. Triton loads this file by its path, into
one process per model instance, so it may import numpy, onnxruntime, Triton's own utilities and
the standard library only. Whole configs are expected: inputs and outputs are not guessed.

Enters: the requests that Triton's dynamic batcher gathered. Leaves: one response per request.
They run as one batch; if that fails they run one by one, so that only the guilty request fails.
"""

import contextlib
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import bf16  # beside this file
import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

if hasattr(ort, "disable_telemetry_events"):
    ort.disable_telemetry_events()

_MAX_DEFAULT_THREADS = 4
_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(bfloat16)": "TYPE_BF16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


class TritonPythonModel:
    """One instance of one version of a model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model.

        Args:
            args: Triton's: `model_config` (JSON), `model_repository` (the model's folder),
                `model_version`, `model_instance_kind` ("CPU" or "GPU"),
                `model_instance_device_id`.
        """
        config = json.loads(args["model_config"])
        parameters = {
            name: value["string_value"] for name, value in config.get("parameters", {}).items()
        }
        self._batches = config["max_batch_size"] > 0
        self._inputs = {tensor["name"]: tensor["data_type"] for tensor in config["input"]}
        self._outputs = {tensor["name"]: tensor["data_type"] for tensor in config["output"]}
        types = {*self._inputs.values(), *self._outputs.values()}
        # numpy has no bfloat16, so that such a model takes a path of its own.
        self._has_bf16 = "TYPE_BF16" in types
        self._session = ort.InferenceSession(
            _model_file(args, config), _session_options(parameters), _providers(args, parameters)
        )
        self._run_options = _run_options(parameters)
        self._check()
        if self._has_bf16 and not hasattr(
            ort.capi.onnxruntime_pybind11_state.OrtValue, "to_dlpack"
        ):
            raise pb_utils.TritonModelException("BF16 needs a newer onnxruntime")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests and answer each.

        Args:
            requests: those that Triton gathered, `pb_utils.InferenceRequest`.

        Returns:
            As many `pb_utils.InferenceResponse`, in the same order.
        """
        responses: dict[int, Any] = {}
        groups: dict[Any, list[tuple[int, dict[str, np.ndarray]]]] = defaultdict(list)
        for index, request in enumerate(requests):
            try:
                feed = {t.name(): self._read(t) for t in request.inputs()}
            except Exception as error:  # noqa: BLE001  # one caller's bytes, not the neighbours'
                responses[index] = _failure(error, pb_utils.TritonError.INVALID_ARG)
                continue
            groups[self._group_of(index, feed)].append((index, feed))
        for members in groups.values():
            self._run_group(requests, members, responses)
        return [responses[index] for index in range(len(requests))]

    def finalize(self) -> None:
        """Free the model."""
        del self._session

    def _check(self) -> None:
        """Refuse at once what could only fail, or never be batched, later."""
        for kind, nodes, wanted in (
            ("input", self._session.get_inputs(), self._inputs),
            ("output", self._session.get_outputs(), self._outputs),
        ):
            known = {node.name: _TYPES.get(node.type, node.type) for node in nodes}
            # A model may have more outputs than it shows, but needs all of its inputs.
            odd = set(wanted) - set(known) if kind == "output" else set(wanted) ^ set(known)
            if odd or not wanted:
                raise pb_utils.TritonModelException(
                    f"config.pbtxt must name each {kind} of model.onnx; the model has "
                    f"{sorted(known)}, the config {sorted(wanted)}"
                )
            for node in nodes:
                name, shape = node.name, node.shape
                if wanted.get(name, known[name]) != known[name]:
                    raise pb_utils.TritonModelException(
                        f"{kind} {name!r} is {known[name]} in model.onnx and {wanted[name]} in "
                        f"config.pbtxt"
                    )
                if name in wanted and self._batches and shape and isinstance(shape[0], int):
                    raise pb_utils.TritonModelException(
                        f"{kind} {name!r} always has {shape[0]} rows in model.onnx; export it "
                        f"with a dynamic first dimension, or set max_batch_size to 0"
                    )

    def _group_of(self, index: int, feed: dict[str, np.ndarray]) -> Any:
        """Requests of the same group can be concatenated along their first dimension."""
        if not self._batches:
            return index
        return tuple(
            sorted((name, array.shape[1:], array.dtype.str) for name, array in feed.items())
        )

    def _run_group(
        self,
        requests: list[Any],
        members: list[tuple[int, dict[str, np.ndarray]]],
        responses: dict[int, Any],
    ) -> None:
        if len(members) > 1:
            names = {name for i, _ in members for name in requests[i].requested_output_names()}
            feeds = [feed for _, feed in members]
            # A failure here says nothing about who is guilty: below, each runs alone.
            with contextlib.suppress(Exception):
                parts = self._split(self._run(sorted(names), _joined(feeds)), feeds)
                answers = [
                    self._answer(requests[i], outputs)
                    for (i, _), outputs in zip(members, parts, strict=True)
                ]
                responses.update(zip((i for i, _ in members), answers, strict=True))
                return
        for index, feed in members:
            try:
                outputs = self._run(sorted(requests[index].requested_output_names()), feed)
                responses[index] = self._answer(requests[index], outputs)
            except Exception as error:  # noqa: BLE001  # told to the caller
                responses[index] = _failure(error, pb_utils.TritonError.INTERNAL)

    def _run(self, names: list[str], feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not self._has_bf16:
            results = self._session.run(names, feed, self._run_options)
            return dict(zip(names, results, strict=True))
        values = {
            name: bf16.make_value(array)
            if self._inputs[name] == "TYPE_BF16"
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in feed.items()
        }
        results = self._session.run_with_ort_values(names, values, self._run_options)
        return {
            name: bf16.read_value(value._ortvalue)  # noqa: SLF001  # the wrapper hides `data_ptr`
            if self._outputs[name] == "TYPE_BF16"
            else value.numpy()
            for name, value in zip(names, results, strict=True)
        }

    def _split(
        self, outputs: dict[str, np.ndarray], feeds: list[dict[str, np.ndarray]]
    ) -> list[dict[str, np.ndarray]]:
        rows = [next(iter(feed.values())).shape[0] for feed in feeds]
        if any(array.ndim == 0 or array.shape[0] != sum(rows) for array in outputs.values()):
            raise ValueError("an output does not have one row per row of input")
        ends = np.cumsum(rows)
        return [
            {name: array[end - count : end] for name, array in outputs.items()}
            for end, count in zip(ends, rows, strict=True)
        ]

    def _answer(self, request: Any, outputs: dict[str, np.ndarray]) -> Any:
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse([self._write(name, outputs[name]) for name in wanted])

    def _read(self, tensor: Any) -> np.ndarray:
        kind = self._inputs[tensor.name()]
        if kind == "TYPE_BF16":
            return bf16.read_capsule(tensor.to_dlpack())
        array = tensor.as_numpy()
        if kind != "TYPE_STRING":
            return array
        # onnxruntime takes text only: bytes would silently become their repr.
        texts = [element.decode() for element in array.reshape(-1)]
        return np.array([*texts, None], dtype=object)[:-1].reshape(array.shape)

    def _write(self, name: str, array: np.ndarray) -> Any:
        if self._outputs[name] != "TYPE_BF16":
            return pb_utils.Tensor(name, array)
        value = bf16.make_value(array)
        return pb_utils.Tensor.from_dlpack(name, value._ortvalue.to_dlpack())  # noqa: SLF001


def _joined(feeds: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _failure(error: Exception, code: int) -> Any:
    if type(error).__name__ in {"InvalidArgument", "UnicodeDecodeError"}:
        code = pb_utils.TritonError.INVALID_ARG
    text = f"onnxruntime: {type(error).__name__}: {error}"
    return pb_utils.InferenceResponse([], pb_utils.TritonError(text, code))


def _model_file(args: dict[str, str], config: dict[str, Any]) -> str:
    file = config.get("default_model_filename") or "model.onnx"
    path = Path(args["model_repository"]) / args["model_version"] / file
    # As the native backend has it: a folder holds a model with external data.
    return str(path / "model.onnx" if path.is_dir() else path)


def _session_options(parameters: dict[str, str]) -> ort.SessionOptions:
    """Options from the parameters that the native backend knows, by the same names."""
    options = ort.SessionOptions()
    # Half the cores: Triton itself, the workers and other models need the rest.
    cores = len(os.sched_getaffinity(0))
    threads = max(1, min(_MAX_DEFAULT_THREADS, cores // 2))
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", "0")) or threads
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", "0")) or 1
    if parameters.get("execution_mode") == "1":
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    # The arena only grows; without it the memory of a large batch goes back at once.
    options.enable_cpu_mem_arena = parameters.get("enable_mem_arena", "0") == "1"
    options.enable_mem_pattern = parameters.get("enable_mem_pattern", "1") == "1"
    # Waiting threads sleep: on a small machine a spinning one takes a core from Triton.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _run_options(parameters: dict[str, str]) -> ort.RunOptions:
    options = ort.RunOptions()
    shrinkage = parameters.get("memory.enable_memory_arena_shrinkage")
    if shrinkage:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrinkage)
    return options


def _providers(args: dict[str, str], parameters: dict[str, str]) -> list[Any]:
    if args["model_instance_kind"] != "GPU":
        return ["CPUExecutionProvider"]
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN from their wheels
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return ["CPUExecutionProvider"]
    known = ("gpu_mem_limit", "arena_extend_strategy", "cudnn_conv_algo_search")
    # Powers of two, the default, take up to twice the memory that a batch needs.
    options = {"arena_extend_strategy": "kSameAsRequested"}
    options |= {name: parameters[name] for name in known if name in parameters}
    options["device_id"] = args["model_instance_device_id"]
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
