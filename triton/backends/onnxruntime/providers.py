"""From a model's config to ONNX Runtime's execution providers and options. Pure: no I/O.

Enters: the config as Triton hands it over, the kind and device of an instance. Leaves: a `Plan`,
or `ConfigError`. The names are those of NVIDIA's native backend
(triton-inference-server/onnxruntime_backend, README and `src/onnxruntime.cc`), so that a config
means the same there; what is ours alone is said where it stands. It imports the standard library
only, and must not know whether a GPU is there.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

# In `gpu_execution_accelerator { name: "tensorrt" }`, where the native name is another.
_TENSORRT_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
# ONNX Runtime's Python binding takes words for these, and no numbers
# (onnxruntime_pybind_state.cc); where it does not like one, it does without TensorRT.
_TENSORRT_SWITCHES = {
    "trt_bf16_enable",
    "trt_build_heuristics_enable",
    "trt_context_memory_sharing_enable",
    "trt_cuda_graph_enable",
    "trt_detailed_build_log",
    "trt_dla_enable",
    "trt_dump_ep_context_model",
    "trt_dump_subgraphs",
    "trt_engine_cache_enable",
    "trt_engine_decryption_enable",
    "trt_engine_hw_compatible",
    "trt_force_sequential_engine_build",
    "trt_force_timing_cache",
    "trt_fp16_enable",
    "trt_int8_enable",
    "trt_int8_use_native_calibration_table",
    "trt_layer_norm_fp32_fallback",
    "trt_sparsity_enable",
    "trt_timing_cache_enable",
    "trt_weight_stripped_engine_enable",
}
_PRECISIONS = {
    "FP32": None,
    "FP16": "trt_fp16_enable",
    "BF16": "trt_bf16_enable",
    "INT8": "trt_int8_enable",
}
# The native backend takes these from `parameters` as numbers; ONNX Runtime wants words.
_NUMBERED = {
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
_CUDA_PARAMETERS = (*_NUMBERED, "gpu_mem_limit", "do_copy_in_default_stream", "enable_cuda_graph")
_BOOLEANS = {"1": "1", "true": "1", "0": "0", "false": "0"}
_GRAPH_LEVELS = {-1: "basic", 0: "all", 1: "extended", 2: "none"}
_BINDINGS = ("auto", "on", "off", "fixed")
_PADDINGS = ("auto", "on", "off")
_DEVICE_ALLOCATOR_ENTRY = "session.use_device_allocator_for_initializers"
_SHRINKAGE = "memory.enable_memory_arena_shrinkage"
_COMMENT = re.compile(r"#[^\n]*")
_ASKS_FOR_GPU = re.compile(r"\bKIND_GPU\b|\bgpus\s*:|\bgpu_execution_accelerator\b")


class ConfigError(ValueError):
    """The config asks for what does not exist; says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one instance of a model runs on."""

    providers: tuple[tuple[str, Mapping[str, str]], ...]
    """By precedence; always ends with the CPU."""
    device: tuple[str, int]
    """Where its tensors live: ("cuda", 1), ("cpu", 0)."""
    binding: str
    """`off`, `on`, or `fixed`: buffers that stay where they are, as CUDA graphs need."""
    graphs: bool = False
    session: Mapping[str, Any] = field(default_factory=dict)
    """Of ONNX Runtime's session: `threads`, `inter_threads` (0: by default), `parallel`,
    `level`, `arena`, `pattern`, `entries`."""
    shrinks: tuple[str, ...] = ()
    """Arenas that give memory back after each run, as the config has them: "cpu:0", "gpu:1"."""
    padding: str = "auto"
    """`on`, `off`, or `auto`: on a GPU."""

    @property
    def pads(self) -> bool:
        """Whether batches are filled up, so that few shapes come."""
        return self.padding == "on" or (self.padding == "auto" and self.device[0] == "cuda")

    @property
    def run_entries(self) -> dict[str, str]:
        """Of each run. An arena that the session does not have would fail it.

        A graph is replayed on the memory that it was captured on: the GPU's arena keeps that.
        """
        shrinks_gpu = self.device[0] == "cuda" and not self.graphs
        there = {f"gpu:{self.device[1]}"} if shrinks_gpu else set()
        there |= {"cpu:0"} if self.session["arena"] else set()
        shrinks = ";".join(arena for arena in self.shrinks if arena in there)
        return {_SHRINKAGE: shrinks} if shrinks else {}

    @property
    def names(self) -> tuple[str, ...]:
        """The providers' names."""
        return tuple(name for name, _ in self.providers)


def plan(config: Mapping[str, Any], kind: str, device_id: int) -> Plan:
    """What a config asks for.

    Args:
        config: `args["model_config"]`, parsed.
        kind: `args["model_instance_kind"]`; all but "GPU" is served by processors.
        device_id: `args["model_instance_device_id"]`.

    Raises:
        ConfigError: an unknown accelerator or option value.
    """
    parameters = parameters_of(config)
    session = _session(config, parameters)
    shrinks = tuple(part.strip() for part in parameters.get(_SHRINKAGE, "").split(";"))
    binding = _one_of("io_binding", parameters.get("io_binding", "auto"), _BINDINGS)
    padding = _one_of("batch_padding", parameters.get("batch_padding", "auto"), _PADDINGS)
    if kind != "GPU":
        chosen = "off" if binding == "auto" else binding
        return Plan(
            ((CPU, {}),),
            ("cpu", 0),
            chosen,
            session=session,
            shrinks=shrinks,
            padding=padding,
        )
    accelerators = _accelerators(config)
    device = {"device_id": str(device_id)}
    cuda = _cuda(accelerators.get("cuda"), parameters, config) | device
    providers: list[tuple[str, Mapping[str, str]]] = []
    graphs = cuda.get("enable_cuda_graph") == "1"
    if "tensorrt" in accelerators:
        tensorrt = _tensorrt(accelerators["tensorrt"])
        graphs = graphs or tensorrt.get("trt_cuda_graph_enable") == "True"
        providers.append((TENSORRT, tensorrt | device))
    providers += [(CUDA, cuda), (CPU, {})]
    asked = "on" if binding == "auto" else binding
    # A graph replays on the addresses that it was captured on.
    chosen = "fixed" if graphs else asked
    return Plan(tuple(providers), ("cuda", device_id), chosen, graphs, session, shrinks, padding)


def settle(wanted: Plan, available: Iterable[str], *, required: bool) -> Plan:
    """The plan that can be carried out with the providers of this ONNX Runtime.

    Args:
        wanted: what the config asks for.
        available: `onnxruntime.get_available_providers()`.
        required: the config names a GPU. Else a GPU is merely there (KIND_AUTO), and processors
            do as well.

    Raises:
        ConfigError: a provider is missing that is required.
    """
    missing = [name for name in wanted.names if name not in set(available)]
    if not missing:
        return wanted
    if TENSORRT in missing and CUDA not in missing:
        raise ConfigError(
            f"the config asks for the accelerator tensorrt, and this onnxruntime has no "
            f"{TENSORRT}; install onnxruntime-gpu with TensorRT, or take gpu_execution_accelerator "
            f"out of config.pbtxt"
        )
    if required:
        raise ConfigError(
            f"the config asks for a GPU, and this onnxruntime has no {CUDA}: pip uninstall "
            f"onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]' (they cannot both be "
            f"installed), or write kind: KIND_CPU into config.pbtxt"
        )
    binding = "off" if wanted.graphs or wanted.binding == "on" else wanted.binding
    return replace(wanted, providers=((CPU, {}),), device=("cpu", 0), binding=binding, graphs=False)


def check_used(wanted: Plan, used: Iterable[str]) -> None:
    """Make sure that a session has what was planned.

    ONNX Runtime itself leaves out in silence what it cannot load.

    Args:
        wanted: as settled.
        used: `session.get_providers()`.

    Raises:
        ConfigError: a provider is not there.
    """
    missing = [name for name in wanted.names if name not in set(used)]
    if not missing:
        return
    library = "TensorRT" if TENSORRT in missing and CUDA not in missing else "CUDA or cuDNN"
    raise ConfigError(
        f"onnxruntime could not set up {', '.join(missing)}: its {library} libraries, the driver "
        f"or the device {wanted.device[1]} are missing (its own reason is in Triton's log); "
        f"pip install 'onnxruntime-gpu[cuda,cudnn]', and look at nvidia-smi"
    )


def asks_for_gpu(text: str | None) -> bool:
    """Whether the operator's `config.pbtxt` names a GPU.

    A kind that Triton chose itself (KIND_AUTO) looks the same to a backend as one that was asked
    for.

    Args:
        text: the file; None: it cannot be read, and then what Triton says counts.
    """
    return text is None or bool(_ASKS_FOR_GPU.search(_COMMENT.sub("", text)))


def parameters_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The config's `parameters`, as plain text."""
    given = config.get("parameters") or {}
    return {name: value["string_value"] for name, value in given.items()}


def _accelerators(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    optimization = config.get("optimization") or {}
    listed = (optimization.get("execution_accelerators") or {}).get("gpu_execution_accelerator")
    found = {entry["name"]: dict(entry.get("parameters") or {}) for entry in listed or ()}
    for name in found:
        _one_of("gpu_execution_accelerator.name", name, ("tensorrt", "cuda"))
    return found


def _cuda(
    accelerator: Mapping[str, str] | None, parameters: Mapping[str, str], config: Mapping[str, Any]
) -> dict[str, str]:
    options = {
        # Ours: powers of two, the native default, take up to twice the memory that a batch needs.
        "arena_extend_strategy": "kSameAsRequested",
        # Ours: each batch of another size has all convolutions planned anew
        # (microsoft/onnxruntime#23006), over which the native default, EXHAUSTIVE, takes long.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    # Natively this is TensorRT's only; here the answers are the same, and come sooner.
    cuda = (config.get("optimization") or {}).get("cuda") or {}
    if cuda.get("graphs"):
        options["enable_cuda_graph"] = "1"
    given = {name: parameters[name] for name in _CUDA_PARAMETERS if name in parameters}
    given |= accelerator or {}
    return options | {name: _cuda_value(name, value) for name, value in given.items()}


def _cuda_value(name: str, value: str) -> str:
    if name in _NUMBERED:
        words = _NUMBERED[name]
        known = {**{str(i): word for i, word in enumerate(words)}, **{w: w for w in words}}
        return known[_one_of(name, value, known)]
    if name == "gpu_mem_limit":
        return str(_whole(name, value))
    if name in {"do_copy_in_default_stream", "use_ep_level_unified_stream", "enable_cuda_graph"}:
        return _boolean(name, value)
    return value


def _tensorrt(given: Mapping[str, str]) -> dict[str, str]:
    options = {}
    for name, value in given.items():
        if name == "precision_mode":
            switch = _PRECISIONS[_one_of(name, value, _PRECISIONS)]
            if switch is not None:
                options[switch] = "True"
        elif name in _TENSORRT_NAMES or name.startswith("trt_"):
            option = _TENSORRT_NAMES.get(name, name)
            options[option] = _tensorrt_value(option, name, value)
        else:
            raise ConfigError(f"the accelerator tensorrt has no parameter {name!r}")
    return options


def _tensorrt_value(option: str, name: str, value: str) -> str:
    """As it is, but for words for yes and no, and sizes."""
    if name == "max_workspace_size_bytes":
        return str(_whole(name, value))
    if option in _TENSORRT_SWITCHES:
        return "True" if _boolean(name, value) == "1" else "False"
    return value


def _session(config: Mapping[str, Any], parameters: Mapping[str, str]) -> dict[str, Any]:
    optimization = config.get("optimization") or {}
    level = int((optimization.get("graph") or {}).get("level", 0))
    entries = {}
    if _DEVICE_ALLOCATOR_ENTRY in parameters:
        entries[_DEVICE_ALLOCATOR_ENTRY] = parameters[_DEVICE_ALLOCATOR_ENTRY]
    mode = _one_of("execution_mode", parameters.get("execution_mode", "0"), ("0", "1"))
    return {
        "threads": _whole("intra_op_thread_count", parameters.get("intra_op_thread_count", "0")),
        "inter_threads": _whole(
            "inter_op_thread_count", parameters.get("inter_op_thread_count", "0")
        ),
        "parallel": mode == "1",
        "level": _GRAPH_LEVELS.get(level, "all"),
        # The arena only grows; without it the memory of a large batch goes back at once.
        "arena": _boolean("enable_mem_arena", parameters.get("enable_mem_arena", "0")) == "1",
        "pattern": _boolean("enable_mem_pattern", parameters.get("enable_mem_pattern", "1")) == "1",
        "entries": entries,
    }


def _one_of(name: str, value: str, known: Iterable[str]) -> str:
    names = list(known)
    if value not in names:
        raise ConfigError(f"{name} is {value!r} in config.pbtxt; known are {', '.join(names)}")
    return value


def _boolean(name: str, value: str) -> str:
    return _BOOLEANS[_one_of(name, value.lower(), _BOOLEANS)]


def _whole(name: str, value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0:
        raise ConfigError(f"{name} is {value!r} in config.pbtxt; a whole number is expected")
    return number
