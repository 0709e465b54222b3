"""From configs to providers: what NVIDIA's native backend would make of the same text.

Configs are parsed by Triton's own protocol buffers, as Triton hands them over: no GPU is needed.
"""

import json

import onnxruntime
import providers
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

GPU = ("CUDAExecutionProvider", "CPUExecutionProvider")
SHRINKAGE = "memory.enable_memory_arena_shrinkage"
ALL = ("TensorrtExecutionProvider", *GPU)


def config(text: str) -> dict:
    message = text_format.Parse(text, model_config_pb2.ModelConfig())
    return json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True))


def plan(text: str, kind: str = "GPU", device: int = 0) -> providers.Plan:
    return providers.plan(config(text), kind, device)


def accelerator(name: str, **parameters: str) -> str:
    lines = " ".join(f'parameters {{ key: "{k}" value: "{v}" }}' for k, v in parameters.items())
    return (
        "optimization { execution_accelerators { gpu_execution_accelerator "
        f'[ {{ name: "{name}" {lines} }} ] }} }}'
    )


def parameters(**given: str) -> str:
    return "\n".join(
        f'parameters {{ key: "{key.replace("__", ".")}" value: {{ string_value: "{value}" }} }}'
        for key, value in given.items()
    )


def test_processors_by_kind():
    for kind in ("CPU", "MODEL"):
        made = plan(accelerator("tensorrt", precision_mode="FP16"), kind)
        assert made.names == ("CPUExecutionProvider",)
        assert (made.device, made.binding, made.graphs) == (("cpu", 0), "off", False)


def test_a_gpu_by_its_number():
    made = plan("", device=3)
    assert made.names == GPU
    assert made.device == ("cuda", 3)
    assert made.binding == "on"
    assert dict(made.providers[0][1]) == {
        "device_id": "3",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }


def test_tensorrt_comes_first_with_the_native_names():
    made = plan(
        accelerator(
            "tensorrt",
            precision_mode="FP16",
            max_workspace_size_bytes="1073741824",
            trt_engine_cache_enable="true",
            trt_engine_cache_path="/var/cache/trt",
            int8_use_native_calibration_table="0",
            trt_profile_max_shapes="x:64x8",
        ),
        device=1,
    )
    assert made.names == ALL
    assert dict(made.providers[0][1]) == {
        "trt_fp16_enable": "True",
        "trt_max_workspace_size": "1073741824",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": "/var/cache/trt",
        "trt_int8_use_native_calibration_table": "False",
        "trt_profile_max_shapes": "x:64x8",
        "device_id": "1",
    }


@pytest.mark.parametrize(
    ("mode", "switch"),
    [
        ("FP32", None),
        ("FP16", "trt_fp16_enable"),
        ("BF16", "trt_bf16_enable"),
        ("INT8", "trt_int8_enable"),
    ],
)
def test_precision_modes(mode, switch):
    made = dict(plan(accelerator("tensorrt", precision_mode=mode)).providers[0][1])
    assert made == ({"device_id": "0"} | ({switch: "True"} if switch else {}))


def test_memory_limit_and_the_numbers_of_the_native_backend():
    made = plan(
        parameters(
            gpu_mem_limit="4294967296",
            arena_extend_strategy="0",
            cudnn_conv_algo_search="0",
            do_copy_in_default_stream="true",
        )
    )
    assert dict(made.providers[0][1]) == {
        "gpu_mem_limit": "4294967296",
        "arena_extend_strategy": "kNextPowerOfTwo",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "do_copy_in_default_stream": "1",
        "device_id": "0",
    }


def test_cuda_options_under_the_accelerator_win_and_words_stand():
    made = plan(
        parameters(gpu_mem_limit="1")
        + accelerator(
            "cuda",
            gpu_mem_limit="2",
            cudnn_conv_use_max_workspace="0",
            arena_extend_strategy="kNextPowerOfTwo",
        )
    )
    assert made.names == GPU
    options = made.providers[0][1]
    assert options["gpu_mem_limit"] == "2"
    assert options["cudnn_conv_use_max_workspace"] == "0"
    assert options["arena_extend_strategy"] == "kNextPowerOfTwo"


@pytest.mark.parametrize(
    "text",
    [
        "optimization { cuda { graphs: true } }",
        parameters(enable_cuda_graph="1"),
        accelerator("cuda", enable_cuda_graph="true"),
    ],
)
def test_cuda_graphs_need_buffers_that_stay(text):
    made = plan(text + "\n" + parameters(io_binding="off"))
    assert made.graphs
    assert made.binding == "fixed"
    assert made.providers[0][1]["enable_cuda_graph"] == "1"
    assert not plan(text, "CPU").graphs


def test_graphs_of_tensorrt():
    made = plan(accelerator("tensorrt", trt_cuda_graph_enable="1"))
    assert made.graphs
    assert "enable_cuda_graph" not in made.providers[1][1]


def test_session_options():
    made = plan(
        parameters(
            intra_op_thread_count="6",
            inter_op_thread_count="2",
            execution_mode="1",
            enable_mem_arena="true",
            enable_mem_pattern="0",
            memory__enable_memory_arena_shrinkage="cpu:0;gpu:0",
            session__use_device_allocator_for_initializers="1",
        )
        + "optimization { graph { level: 1 } }"
    )
    assert made.session == {
        "threads": 6,
        "inter_threads": 2,
        "parallel": True,
        "level": "extended",
        "arena": True,
        "pattern": False,
        "entries": {"session.use_device_allocator_for_initializers": "1"},
    }
    assert made.run_entries == {SHRINKAGE: "cpu:0;gpu:0"}


def test_only_arenas_that_there_are_are_shrunk():
    """ONNX Runtime fails each run that names another."""
    text = parameters(memory__enable_memory_arena_shrinkage="cpu:0; gpu:0;gpu:1")
    assert plan(text).run_entries == {SHRINKAGE: "gpu:0"}
    assert plan(text, device=1).run_entries == {SHRINKAGE: "gpu:1"}
    assert plan(text, "CPU").run_entries == {}
    arena = plan(text + parameters(enable_mem_arena="1"), "CPU")
    assert arena.run_entries == {SHRINKAGE: "cpu:0"}
    graphs = "optimization { cuda { graphs: true } }"
    assert plan(text + graphs).run_entries == {}, "a graph would be replayed on memory given back"
    both = plan(text + parameters(enable_mem_arena="1") + graphs)
    assert both.run_entries == {SHRINKAGE: "cpu:0"}


@pytest.mark.parametrize(
    ("level", "named"), [(-1, "basic"), (0, "all"), (1, "extended"), (2, "none")]
)
def test_graph_levels(level, named):
    assert plan(f"optimization {{ graph {{ level: {level} }} }}").session["level"] == named


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (accelerator("openvino"), "gpu_execution_accelerator.name is 'openvino'.*tensorrt, cuda"),
        (accelerator("tensorrt", precision_mode="FP8"), "precision_mode is 'FP8'.*FP16"),
        (accelerator("tensorrt", precison_mode="FP16"), "no parameter 'precison_mode'"),
        (accelerator("tensorrt", max_workspace_size_bytes="1 GB"), "max_workspace_size_bytes"),
        (parameters(gpu_mem_limit="4G"), "gpu_mem_limit is '4G'.*whole number"),
        (parameters(arena_extend_strategy="2"), "arena_extend_strategy is '2'"),
        (parameters(execution_mode="2"), "execution_mode is '2'"),
        (parameters(enable_mem_arena="yes"), "enable_mem_arena is 'yes'"),
        (parameters(intra_op_thread_count="-1"), "intra_op_thread_count"),
        (parameters(io_binding="perhaps"), "io_binding is 'perhaps'"),
        (parameters(batch_padding="3"), "batch_padding is '3'.*auto, on, off"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(text, reason):
    with pytest.raises(providers.ConfigError, match=reason):
        plan(text)


def test_a_provider_that_is_asked_for_and_absent_is_an_error():
    here = onnxruntime.get_available_providers()
    assert "CUDAExecutionProvider" not in here, "these tests run on the CPU build of onnxruntime"
    wanted = plan("")
    with pytest.raises(providers.ConfigError, match=r"onnxruntime-gpu\[cuda,cudnn\].*KIND_CPU"):
        providers.settle(wanted, here, required=True)
    assert providers.settle(wanted, GPU, required=True) is wanted


def test_a_gpu_that_is_merely_there_can_be_left_alone():
    settled = providers.settle(
        plan("optimization { cuda { graphs: true } }\n" + parameters(intra_op_thread_count="3")),
        ["CPUExecutionProvider"],
        required=False,
    )
    assert settled.names == ("CPUExecutionProvider",)
    assert (settled.device, settled.binding, settled.graphs) == (("cpu", 0), "off", False)
    assert settled.session["threads"] == 3


def test_batches_are_filled_on_a_gpu_unless_the_config_says_otherwise():
    assert plan("").pads
    assert plan(accelerator("tensorrt")).pads
    assert not plan("", "CPU").pads
    assert plan(parameters(batch_padding="on"), "CPU").pads
    assert not plan(parameters(batch_padding="off")).pads
    settled = providers.settle(plan(""), ["CPUExecutionProvider"], required=False)
    assert not settled.pads


def test_tensorrt_that_is_absent_is_always_an_error():
    wanted = plan(accelerator("tensorrt", precision_mode="FP16"))
    with pytest.raises(providers.ConfigError, match="has no TensorrtExecutionProvider"):
        providers.settle(wanted, GPU, required=False)


def test_what_onnxruntime_leaves_out_in_silence_is_an_error():
    wanted = plan(accelerator("tensorrt"), device=2)
    providers.check_used(wanted, ALL)
    with pytest.raises(providers.ConfigError, match="TensorRT libraries"):
        providers.check_used(wanted, GPU)
    with pytest.raises(providers.ConfigError, match=r"CUDA or cuDNN.*device 2"):
        providers.check_used(wanted, ["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("instance_group [ { count: 1 } ]", False),
        ("instance_group [ { count: 1 } ] # no KIND_GPU here", False),
        ("instance_group [ { kind: KIND_AUTO } ]", False),
        ("instance_group [ { kind: KIND_GPU } ]", True),
        ("instance_group [ { count: 1 gpus: [ 1 ] } ]", True),
        (accelerator("cuda"), True),
        (None, True),
    ],
)
def test_whether_the_operator_named_a_gpu(text, asks):
    assert providers.asks_for_gpu(text) is asks
