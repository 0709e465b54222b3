"""`ml_inference` through real RabbitMQ, Redis and Triton, with the template's worker command."""

import asyncio

import numpy as np
import pytest
from taskiq.kicker import AsyncKicker

from bridge import errors
from bridge.queues import build_broker
from bridge.tensors import DTYPES

X = np.arange(8, dtype=np.float32).reshape(2, 4)


async def test_arrays_go_in_and_come_out(client):
    result = await client.infer("double", {"x": X})
    assert result.model_name == "double"
    assert result.model_version == "1"
    assert result.outputs["y"].dtype == np.float32
    np.testing.assert_array_equal(result.outputs["y"], X * 2)


async def test_lists_go_in_and_come_out(client):
    result = await client.infer("double", {"x": X.tolist()})
    np.testing.assert_array_equal(result.outputs["y"], X * 2)


async def test_a_version_can_be_chosen(client):
    assert (await client.infer("double", {"x": X}, version="1")).model_version == "1"
    with pytest.raises(errors.UnknownModelError, match="version 7"):
        await client.infer("double", {"x": X}, version="7")


async def test_every_datatype_goes_through_in_both_formats(client, settings):
    types = sorted(DTYPES.keys() - {"BYTES"})
    arrays = {t: np.array([[0, 1, 100]]).astype(DTYPES[t]) for t in types}
    result = await client.infer("wide", {f"in_{t}": arrays[t] for t in types})
    for t in types:
        assert result.outputs[f"out_{t}"].dtype == DTYPES[t]
        np.testing.assert_array_equal(result.outputs[f"out_{t}"], arrays[t])
    written = {
        f"in_{t}": {
            "datatype": t,
            "shape": [1, 3],
            "data": [False, True, True] if t == "BOOL" else [0, 1, 100],
        }
        for t in types
    }
    broker = build_broker(settings, "inference")
    await broker.startup()
    try:
        task = await AsyncKicker("ml_inference", broker, {}).kiq("wide", written)
        answer = (await task.wait_result(timeout=20)).return_value["outputs"]
    finally:
        await broker.shutdown()
    assert answer == {f"out_{t}": written[f"in_{t}"] for t in types}


async def test_text_goes_through(client):
    words = np.array([["ä"], ["longer"]], dtype=object)
    result = await client.infer("echo_text", {"text": words})
    assert result.outputs["echo"].tolist() == [["ä".encode()], [b"longer"]]


BAD = [
    ("nope", {"x": X}, errors.UnknownModelError, "'nope'"),
    ("../double", {"x": X}, errors.InvalidNameError, "model_id must be"),
    ("double", {}, errors.MissingInputError, "'x'"),
    ("double", {"x": X, "z": X}, errors.SurplusInputError, "'z'"),
    ("double", {"x": [[1.0, 2.0, 3.0, 4.0], [3.0]]}, errors.RaggedInputError, "'x'"),
    ("double", {"x": X.astype(np.float64)}, errors.DatatypeError, "takes FP32, got 'FP64'"),
    ("double", {"x": [["a", "b", "c", "d"]]}, errors.DatatypeError, "takes FP32, got text"),
    ("double", {"x": X[:, :3]}, errors.ShapeError, "takes shape [-1, 4], got [2, 3]"),
    ("double", {"x": [1.0, 2.0, 3.0, 4.0]}, errors.ShapeError, "wrap a single row"),
    ("double", {"x": np.ones((9, 4), np.float32)}, errors.TooManyRowsError, "at most 8"),
    ("double", {"x": X[:0]}, errors.EmptyBatchError, "no row"),
    (
        "add_int",
        {"a": [[1, float("nan")]], "b": [[1, 2]]},
        errors.NotANumberError,
        "takes INT32, got NaN",
    ),
    ("double", {"x": 5}, errors.MalformedTensorError, "got int"),
]


@pytest.mark.parametrize(("model", "data", "error", "text"), BAD)
async def test_bad_input_is_a_typed_error_and_the_worker_goes_on(client, model, data, error, text):
    with pytest.raises(error) as caught:
        await client.infer(model, data, timeout_s=20)
    assert type(caught.value) is error
    assert text in str(caught.value)
    np.testing.assert_array_equal((await client.infer("double", {"x": X})).outputs["y"], X * 2)


async def test_bad_and_good_side_by_side_keep_to_themselves(client):
    calls = []
    for i in range(200):
        if i % 4 == 0:
            model, data, _, _ = BAD[i // 4 % len(BAD)]
            calls.append(client.infer(model, data, timeout_s=60))
        else:
            calls.append(client.infer("double", {"x": X + i}, timeout_s=60))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for i, answer in enumerate(answers):
        if i % 4 == 0:
            assert type(answer) is BAD[i // 4 % len(BAD)][2]
        else:
            np.testing.assert_array_equal(answer.outputs["y"], (X + i) * 2)


async def test_a_handle_from_elsewhere_finds_the_result(client):
    handle = await client.submit("double", {"x": X})
    np.testing.assert_array_equal((await handle.result(20)).outputs["y"], X * 2)
    again = await client.handle(handle.task_id).result(20)
    assert again["model_name"] == "double"
    result = await client.inference(handle.task_id).result(20)
    np.testing.assert_array_equal(result.outputs["y"], X * 2)


async def test_no_result_in_time_says_what_to_look_at(client):
    with pytest.raises(errors.ResultTimeoutError, match="mlbridge status"):
        await client.handle("0" * 32).result(0.2)
