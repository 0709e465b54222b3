"""Batches that are filled up to few sizes, as on a GPU: on processors, through a real Triton."""

import asyncio

import numpy as np
import pytest
from onnx import TensorProto, helper

from bridge.tensors import Tensor
from bridge.triton_client import TritonClient

FILLED = 'parameters { key: "batch_padding" value: { string_value: "on" } }'
GATHERED = "dynamic_batching { max_queue_delay_microseconds: 200000 }"


@pytest.fixture
async def client(triton):
    async with TritonClient([triton.address], triton.admin_key) as client:
        yield client


@pytest.fixture
def save_counting(model_repository, save_model):
    """Saves a model that tells each row how many rows its batch had; 6 at most."""

    def save(name, extra):
        nodes = [
            helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
            helper.make_node("Cast", ["rows"], ["count"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["x", "x"], ["zero"]),
            helper.make_node("Add", ["zero", "count"], ["seen"]),
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Identity", ["text"], ["echo"]),
        ]
        inputs = [("x", "FP32", [2]), ("text", "BYTES", [1])]
        outputs = [("seen", "FP32", [2]), ("same", "FP32", [2]), ("echo", "BYTES", [1])]
        save_model(model_repository, name, nodes, inputs, outputs, max_batch_size=6, extra=extra)

    return save


async def ask(client, name, rows):
    """Asks with numbers of its own; checks that these come back; returns the size of its batch."""
    x = np.random.default_rng().normal(size=(rows, 2)).astype(np.float32)
    texts = np.array([[f"{value}".encode()] for value in x[:, 0]], dtype=object)
    inputs = {"x": Tensor.from_array(x), "text": Tensor.from_array(texts)}
    reply = await client.infer(name, inputs, timeout_s=30)
    np.testing.assert_array_equal(reply.outputs["same"].to_array(), x)
    np.testing.assert_array_equal(reply.outputs["echo"].to_array(), texts)
    seen = reply.outputs["seen"].to_array()
    assert seen.shape == (rows, 2)
    return sorted(set(seen.ravel()))


@pytest.mark.parametrize(
    ("name", "extra", "sizes"),
    [
        ("filled", FILLED + GATHERED, {1: 1, 2: 2, 3: 4, 4: 4, 5: 6, 6: 6}),
        ("not_gathered", FILLED, {3: 3, 5: 5}),
        ("not_filled", GATHERED, {3: 3, 5: 5}),
    ],
)
async def test_a_batch_is_filled_up(name, extra, sizes, client, save_counting):
    save_counting(name, extra)
    await client.load(name)
    assert {rows: await ask(client, name, rows) for rows in sizes} == {
        rows: [size] for rows, size in sizes.items()
    }


async def test_requests_that_were_gathered_are_filled_up_together(client, save_counting):
    save_counting("together", FILLED + GATHERED)
    await client.load("together")
    sizes = await asyncio.gather(*(ask(client, "together", rows) for rows in (2, 1, 2)))
    assert sizes == [[6], [6], [6]]


async def test_a_model_whose_outputs_are_not_rows_is_left_alone(
    client, model_repository, save_model
):
    save_model(
        model_repository,
        "twice",
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        [("x", "FP32", [2])],
        [("y", "FP32", [2])],
        extra=FILLED + GATHERED,
    )
    await client.load("twice")
    for rows in (3, 5, 3):
        x = np.random.default_rng(rows).normal(size=(rows, 2)).astype(np.float32)
        reply = await client.infer("twice", {"x": Tensor.from_array(x)}, timeout_s=30)
        np.testing.assert_array_equal(reply.outputs["y"].to_array(), np.concatenate([x, x]))
