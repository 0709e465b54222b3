"""Triton's Python-based backend named `onnxruntime`.

Serves what NVIDIA's native backend of that name serves: `config.pbtxt` with
`backend: "onnxruntime"` and `<version>/model.onnx`. Triton loads this file by its path, into
one process per model instance, so it may import numpy, onnxruntime, Triton's own utilities, the
standard library and its siblings only (Triton puts this folder on `sys.path`). Whole configs are
expected: inputs and outputs are not guessed.

Enters: the requests that Triton's dynamic batcher gathered. Leaves: one response per request.
They run as one batch; if that fails they run one by one, so that only the guilty request fails.
On a GPU a batch is filled up to a power of two: each shape costs plans, graphs or engines.
"""

import contextlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import bf16  # beside this file
import numpy as np
import onnxruntime as ort
import providers  # beside this file
import sessions  # beside this file
import triton_python_backend_utils as pb_utils

_ON_DEVICE = "FORCE_CPU_ONLY_INPUT_TENSORS"
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
        self._batches = config["max_batch_size"] > 0
        self._inputs = {tensor["name"]: tensor["data_type"] for tensor in config["input"]}
        self._outputs = {tensor["name"]: tensor["data_type"] for tensor in config["output"]}
        self._check_runtime(providers.parameters_of(config))
        try:
            plan = _plan(args, config)
            self._session = sessions.Session(
                _model_file(args, config), plan, {**self._inputs, **self._outputs}
            )
        except providers.ConfigError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._check()
        # Without dynamic batching nobody has said that rows do not look at one another.
        gathers = self._batches and config.get("dynamic_batching") is not None
        self._fills_to = config["max_batch_size"] if gathers and plan.pads else 0
        self._report = _report(args, self._session.describe())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the requests and answer each.

        Args:
            requests: those that Triton gathered, `pb_utils.InferenceRequest`.

        Returns:
            As many `pb_utils.InferenceResponse`, in the same order.
        """
        responses: dict[int, Any] = {}
        groups: dict[Any, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
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
        del self._session, self._report

    def _check_runtime(self, parameters: dict[str, str]) -> None:
        """Refuse what this version of ONNX Runtime cannot do."""
        native = ort.capi.onnxruntime_pybind11_state.OrtValue
        types = {*self._inputs.values(), *self._outputs.values()}
        if sessions.BF16 in types and not hasattr(native, "to_dlpack"):
            raise pb_utils.TritonModelException("BF16 needs a newer onnxruntime")
        if parameters.get(_ON_DEVICE) == "no" and not hasattr(ort.OrtValue, "from_dlpack"):
            raise pb_utils.TritonModelException(f'{_ON_DEVICE} "no" needs a newer onnxruntime')

    def _check(self) -> None:
        """Refuse at once what could only fail, or never be batched, later."""
        for kind, nodes, wanted in (
            ("input", self._session.session.get_inputs(), self._inputs),
            ("output", self._session.session.get_outputs(), self._outputs),
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

    def _group_of(self, index: int, feed: dict[str, Any]) -> Any:
        """Requests of the same group can be concatenated along their first dimension."""
        if not self._batches or any(isinstance(value, ort.OrtValue) for value in feed.values()):
            return index
        return tuple(
            sorted((name, array.shape[1:], array.dtype.str) for name, array in feed.items())
        )

    def _run_group(
        self,
        requests: list[Any],
        members: list[tuple[int, dict[str, Any]]],
        responses: dict[int, Any],
    ) -> None:
        feeds = [feed for _, feed in members]
        more = self._rows_to_add(feeds)
        if len(members) > 1 or more:
            names = {name for i, _ in members for name in requests[i].requested_output_names()}
            # A failure here says nothing about who is guilty: below, each runs alone, as it is.
            with contextlib.suppress(Exception):
                outputs = self._session.run(sorted(names), _joined(feeds, more))
                parts = self._split(outputs, feeds, more)
                answers = [
                    self._answer(requests[i], outputs)
                    for (i, _), outputs in zip(members, parts, strict=True)
                ]
                responses.update(zip((i for i, _ in members), answers, strict=True))
                return
        for index, feed in members:
            try:
                names = sorted(requests[index].requested_output_names())
                outputs = self._session.run(names, feed)
                responses[index] = self._answer(requests[index], outputs)
            except Exception as error:  # noqa: BLE001  # told to the caller
                responses[index] = _failure(error, pb_utils.TritonError.INTERNAL)

    def _rows_to_add(self, feeds: list[dict[str, Any]]) -> int:
        """How many fill the batch up to a power of two, or to the largest batch."""
        if not self._fills_to or any(isinstance(v, ort.OrtValue) for v in feeds[0].values()):
            return 0
        rows = sum(map(_rows, feeds))
        return max(0, min(_power_of_two(rows), self._fills_to) - rows) if rows else 0

    def _split(
        self, outputs: dict[str, np.ndarray], feeds: list[dict[str, np.ndarray]], more: int
    ) -> list[dict[str, np.ndarray]]:
        rows = [_rows(feed) for feed in feeds]
        there = sum(rows) + more
        if any(array.ndim == 0 or array.shape[0] != there for array in outputs.values()):
            self._fills_to = 0  # it would be in vain each time
            raise ValueError("an output does not have one row per row of input")
        ends = np.cumsum(rows)
        return [
            {name: array[end - count : end] for name, array in outputs.items()}
            for end, count in zip(ends, rows, strict=True)
        ]

    def _answer(self, request: Any, outputs: dict[str, Any]) -> Any:
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse([self._write(name, outputs[name]) for name in wanted])

    def _read(self, tensor: Any) -> Any:
        """An array; or, where Triton left the tensor on the device, an `OrtValue` there."""
        kind = self._inputs[tensor.name()]
        if not tensor.is_cpu():
            if kind in sessions.HOST_ONLY:
                raise ValueError(f'an input of {kind} needs {_ON_DEVICE} "yes"')
            return sessions.device_value(tensor.to_dlpack())
        if kind == sessions.BF16:
            return bf16.read_capsule(tensor.to_dlpack())
        array = tensor.as_numpy()
        if kind != "TYPE_STRING":
            return array
        # onnxruntime takes text only: bytes would silently become their repr.
        texts = [element.decode() for element in array.reshape(-1)]
        return np.array([*texts, None], dtype=object)[:-1].reshape(array.shape)

    def _write(self, name: str, value: Any) -> Any:
        if self._outputs[name] == sessions.BF16:
            value = bf16.make_value(value)
        if not isinstance(value, ort.OrtValue):
            return pb_utils.Tensor(name, value)
        return pb_utils.Tensor.from_dlpack(name, sessions.device_capsule(value))


def _rows(feed: dict[str, np.ndarray]) -> int:
    return next(iter(feed.values())).shape[0]


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _joined(feeds: list[dict[str, np.ndarray]], more: int) -> dict[str, np.ndarray]:
    """All rows, and the last one so many times more: it is one that the model knows."""
    if more:
        last = next(feed for feed in reversed(feeds) if _rows(feed))
        feeds = [*feeds, {name: np.repeat(a[-1:], more, axis=0) for name, a in last.items()}]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _failure(error: Exception, code: int) -> Any:
    if type(error).__name__ in {"InvalidArgument", "UnicodeDecodeError"}:
        code = pb_utils.TritonError.INVALID_ARG
    text = f"onnxruntime: {type(error).__name__}: {error}"
    return pb_utils.InferenceResponse([], pb_utils.TritonError(text, code))


def _model_file(args: dict[str, str], config: dict[str, Any]) -> Path:
    file = config.get("default_model_filename") or "model.onnx"
    path = Path(args["model_repository"]) / args["model_version"] / file
    # As the native backend has it: a folder holds a model with external data.
    return path / "model.onnx" if path.is_dir() else path


def _plan(args: dict[str, str], config: dict[str, Any]) -> providers.Plan:
    wanted = providers.plan(
        config, args["model_instance_kind"], int(args["model_instance_device_id"])
    )
    try:
        text = (Path(args["model_repository"]) / "config.pbtxt").read_text()
    except OSError:
        text = None
    available = ort.get_available_providers()
    return providers.settle(wanted, available, required=providers.asks_for_gpu(text))


def _report(args: dict[str, str], described: dict[str, Any]) -> Any:
    """Tell what the instance runs on: a line in Triton's log, and a metric where Triton has any.

    Returns:
        The metric, which vanishes with this object.
    """
    name, version = args["model_instance_name"], args["model_version"]
    pb_utils.Logger.log_info(f"onnxruntime: {name} version {version}: {json.dumps(described)}")
    if args["model_instance_kind"] == "GPU" and described["device"].startswith("cpu"):
        pb_utils.Logger.log_warn(
            f"onnxruntime: {name} runs on processors although there is a GPU: this onnxruntime "
            f"has no {providers.CUDA}; see docs/gpu.md"
        )
    with contextlib.suppress(pb_utils.TritonModelException):
        family = pb_utils.MetricFamily(
            name="bridge_onnxruntime_session_info",
            description="What an instance of a model runs on; always 1",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        metric = family.Metric(
            labels={
                "model": args["model_name"],
                "version": version,
                "instance": name,
                "device": described["device"],
                "provider": described["providers"][0],
                "nodes": ",".join(f"{name}:{n}" for name, n in described["nodes"].items()),
            }
        )
        metric.set(1)
        return family, metric
    return None
