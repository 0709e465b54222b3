"""The Python-based backend, through a real Triton."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc.aio as grpc
from onnx import helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from bridge.embedded.triton import TritonServer

ADMIN = "triton-grpc-protocol-triton-admin-key"


@pytest.fixture(scope="module")
async def client(triton: TritonServer) -> AsyncIterator[grpc.InferenceServerClient]:
    async with grpc.InferenceServerClient(triton.address) as client:
        yield client


def tensor(name: str, array: np.ndarray) -> grpc.InferInput:
    dtype = "BF16" if array.dtype == ml_dtypes.bfloat16 else np_to_triton_dtype(array.dtype)
    built = grpc.InferInput(name, list(array.shape), dtype)
    if dtype == "BF16":
        built._raw_content = array.tobytes()
    else:
        built.set_data_from_numpy(array)
    return built


async def executions(client: grpc.InferenceServerClient, model: str) -> tuple[int, int]:
    """Rows and runs so far."""
    statistics = await client.get_inference_statistics(model)
    return (
        sum(stats.inference_count for stats in statistics.model_stats),
        sum(stats.execution_count for stats in statistics.model_stats),
    )


async def test_gathered_requests_run_once_and_each_gets_its_own_rows(
    client: grpc.InferenceServerClient,
) -> None:
    rows_before, runs_before = await executions(client, "lookup")
    indexes = [np.array([[0], [1]]), np.array([[2]]), np.array([[1]]), np.array([[0], [2], [2]])]
    replies = await asyncio.gather(
        *(client.infer("lookup", [tensor("index", index)]) for index in indexes)
    )
    for index, reply in zip(indexes, replies, strict=True):
        np.testing.assert_array_equal(reply.as_numpy("value"), index + 10.0)
    rows, runs = await executions(client, "lookup")
    assert rows - rows_before == 7
    assert runs - runs_before < len(indexes)


async def test_a_guilty_request_fails_alone(client: grpc.InferenceServerClient) -> None:
    indexes = [np.array([[0]]), np.array([[99]]), np.array([[2]])]
    replies = await asyncio.gather(
        *(client.infer("lookup", [tensor("index", index)]) for index in indexes),
        return_exceptions=True,
    )
    assert replies[0].as_numpy("value").tolist() == [[10.0]]
    assert isinstance(replies[1], InferenceServerException)
    assert "onnxruntime: InvalidArgument" in str(replies[1])
    assert replies[2].as_numpy("value").tolist() == [[12.0]]


async def test_text_that_is_not_utf8_fails_alone(client: grpc.InferenceServerClient) -> None:
    texts = [b"plain", b"\xff\xfe", "süß".encode(), b""]
    replies = await asyncio.gather(
        *(
            client.infer("echo_text", [tensor("text", np.array([[t]], dtype=object))])
            for t in texts
        ),
        return_exceptions=True,
    )
    assert [r.as_numpy("echo")[0, 0] for i, r in enumerate(replies) if i != 1] == [
        b"plain",
        "süß".encode(),
        b"",
    ]
    assert isinstance(replies[1], InferenceServerException)
    assert "UnicodeDecodeError" in str(replies[1])


WIDE = [
    np.dtype(t) for t in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
] + [np.dtype(ml_dtypes.bfloat16)]


def wide_name(dtype: np.dtype) -> str:
    return "BF16" if dtype == ml_dtypes.bfloat16 else np_to_triton_dtype(dtype)


async def test_every_datatype_comes_back_bit_for_bit(client: grpc.InferenceServerClient) -> None:
    def arrays(rows: int, columns: int) -> dict[str, np.ndarray]:
        values = np.arange(rows * columns).reshape(rows, columns)
        return {wide_name(t): (values % 2 if t == "?" else values * 3).astype(t) for t in WIDE}

    async def check(sent: dict[str, np.ndarray]) -> None:
        reply = await client.infer("wide", [tensor(f"in_{k}", a) for k, a in sent.items()])
        raw = dict(
            zip(
                (output.name for output in reply.get_response().outputs),
                reply.get_response().raw_output_contents,
                strict=True,
            )
        )
        assert {f"out_{k}": a.tobytes() for k, a in sent.items()} == raw

    # Of several shapes, so that some can be joined and some cannot.
    shapes = [(1, 3), (2, 3), (1, 5), (1, 3)]
    await asyncio.gather(*(check(arrays(*shape)) for shape in shapes))


async def test_only_the_requested_outputs_are_sent(client: grpc.InferenceServerClient) -> None:
    sent = [tensor(f"in_{wide_name(t)}", np.ones((1, 2)).astype(t)) for t in WIDE]
    wanted = ["out_INT8", "out_FP16"]
    reply = await client.infer(
        "wide", sent, outputs=[grpc.InferRequestedOutput(name) for name in wanted]
    )
    assert sorted(output.name for output in reply.get_response().outputs) == sorted(wanted)


async def test_a_model_without_batching(client: grpc.InferenceServerClient) -> None:
    arrays = [np.full((2, 2), float(i), np.float32) for i in range(4)]
    replies = await asyncio.gather(*(client.infer("fixed", [tensor("x", a)]) for a in arrays))
    for array, reply in zip(arrays, replies, strict=True):
        np.testing.assert_array_equal(reply.as_numpy("y"), -array)


async def test_two_inputs(client: grpc.InferenceServerClient) -> None:
    a, b = np.array([[1, 2]], np.int32), np.array([[30, 40]], np.int32)
    reply = await client.infer("add_int", [tensor("a", a), tensor("b", b)])
    assert reply.as_numpy("sum").tolist() == [[31, 42]]


async def test_a_new_version_goes_live_under_traffic(
    client: grpc.InferenceServerClient,
    triton: TritonServer,
    model_repository: Path,
    save_multiplier: Callable[..., Path],
) -> None:
    save_multiplier(model_repository, "growing", 1.0)
    await client.load_model("growing", headers={ADMIN: triton.admin_key})
    answers: list[float] = []
    done = asyncio.Event()

    async def call() -> None:
        while not done.is_set():
            reply = await client.infer("growing", [tensor("x", np.ones((1, 4), np.float32))])
            answers.append(float(reply.as_numpy("y")[0, 0]))

    callers = [asyncio.create_task(call()) for _ in range(4)]
    save_multiplier(model_repository, "growing", 5.0, version=2)
    await client.load_model("growing", headers={ADMIN: triton.admin_key})
    await asyncio.sleep(0.2)
    done.set()
    await asyncio.gather(*callers)
    assert set(answers) == {1.0, 5.0}
    assert answers == sorted(answers)


CONFIG = """backend: "onnxruntime"
max_batch_size: {batch}
input [{{ name: "x" data_type: TYPE_FP32 dims: [2, 2] }}]
output [{{ name: "{output}" data_type: {kind} dims: [2, 2] }}]
"""


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("no_model", CONFIG.format(batch=0, output="y", kind="TYPE_FP32"), "INVALID_PROTOBUF"),
        ("no_such", CONFIG.format(batch=0, output="z", kind="TYPE_FP32"), r"has \['y'\].*\['z'\]"),
        ("kind", CONFIG.format(batch=0, output="y", kind="TYPE_INT8"), "TYPE_FP32 in.*TYPE_INT8"),
        ("rows", CONFIG.format(batch=8, output="y", kind="TYPE_FP32"), "always has 2 rows"),
        ("mini", 'backend: "onnxruntime"', "must name each input"),
    ],
)
async def test_a_model_that_cannot_be_served_says_why(
    name: str,
    config: str,
    reason: str,
    client: grpc.InferenceServerClient,
    triton: TritonServer,
    model_repository: Path,
) -> None:
    folder = model_repository / f"broken_{name}"
    (folder / "1").mkdir(parents=True)
    fixed = model_repository / "fixed" / "1" / "model.onnx"
    model = b"no model" if name == "no_model" else fixed.read_bytes()
    (folder / "1" / "model.onnx").write_bytes(model)
    (folder / "config.pbtxt").write_text(config)
    with pytest.raises(InferenceServerException, match=reason):
        await client.load_model(folder.name, headers={ADMIN: triton.admin_key})


BOUND = """
dynamic_batching {{ max_queue_delay_microseconds: 20000 }}
parameters {{ key: "io_binding" value: {{ string_value: "{binding}" }} }}
parameters {{ key: "memory.enable_memory_arena_shrinkage" value: {{ string_value: "cpu:0" }} }}
"""


@pytest.mark.parametrize("binding", ["on", "fixed"])
async def test_bound_tensors_of_gathered_requests(
    binding: str,
    client: grpc.InferenceServerClient,
    triton: TritonServer,
    model_repository: Path,
    save_model: Callable[..., Path],
) -> None:
    name = f"bound_{binding}"
    save_model(
        model_repository,
        name,
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Neg", ["a"], ["minus"])],
        [("a", "FP16", [2]), ("b", "FP16", [2])],
        [("sum", "FP16", [2]), ("minus", "FP16", [2])],
        extra=BOUND.format(binding=binding),
    )
    await client.load_model(name, headers={ADMIN: triton.admin_key})
    arrays = [np.full((1 + i % 3, 2), i, np.float16) for i in range(12)]
    for _ in range(3):
        replies = await asyncio.gather(
            *(client.infer(name, [tensor("a", a), tensor("b", a + 1)]) for a in arrays)
        )
        for array, reply in zip(arrays, replies, strict=True):
            np.testing.assert_array_equal(reply.as_numpy("sum"), 2 * array + 1)
            np.testing.assert_array_equal(reply.as_numpy("minus"), -array)


async def test_each_instance_tells_what_it_runs_on(triton: TritonServer) -> None:
    (instance,) = [each for each in await triton.instances() if each["model"] == "double"]
    assert instance.pop("instance").startswith("double_0")
    assert instance == {
        "model": "double",
        "version": "1",
        "device": "cpu:0",
        "provider": "CPUExecutionProvider",
        "nodes": "CPUExecutionProvider:1",
    }


@pytest.mark.parametrize(
    ("name", "extra", "reason"),
    [
        # Where there is no GPU, Triton itself refuses; in NVIDIA's container too.
        ("gpu", "instance_group [{ kind: KIND_GPU gpus: [0] }]", "GPU"),
        (
            "option",
            'parameters { key: "execution_mode" value: { string_value: "9" } }',
            "execution_mode is '9'",
        ),
    ],
)
async def test_what_cannot_be_had_is_no_silent_fallback(
    name: str,
    extra: str,
    reason: str,
    client: grpc.InferenceServerClient,
    triton: TritonServer,
    model_repository: Path,
) -> None:
    folder = model_repository / f"wants_{name}"
    (folder / "1").mkdir(parents=True)
    fixed = model_repository / "fixed" / "1" / "model.onnx"
    (folder / "1" / "model.onnx").write_bytes(fixed.read_bytes())
    config = CONFIG.format(batch=0, output="y", kind="TYPE_FP32")
    (folder / "config.pbtxt").write_text(f"{config}{extra}\n")
    with pytest.raises(InferenceServerException, match=reason):
        await client.load_model(folder.name, headers={ADMIN: triton.admin_key})
