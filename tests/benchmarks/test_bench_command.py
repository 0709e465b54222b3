"""`mlbridge bench`: made-up inputs for any model, and a real run through both ways."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bridge.cli.made_up import make_inputs, parse_shape
from bridge.embedded.workers import WorkerPool
from bridge.errors import InvalidInputError
from bridge.specs import ModelSpec
from bridge.tensors import DTYPES, TensorSpec, datatype_of
from bridge.triton_client import TritonClient


def spec_of(*inputs: TensorSpec, max_batch_size: int = 8) -> ModelSpec:
    return ModelSpec("m", max_batch_size, {spec.name: spec for spec in inputs}, {})


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_can_be_made_up(datatype):
    spec = spec_of(TensorSpec("x", datatype, (-1, 3)))
    array = make_inputs(spec, 2, {})["x"]
    assert array.shape == (2, 3)
    assert datatype_of(array) == datatype


def test_open_sizes_are_one_or_as_given():
    spec = spec_of(TensorSpec("image", "FP32", (-1, 3, -1, -1)))
    assert make_inputs(spec, 1, {})["image"].shape == (1, 3, 1, 1)
    assert make_inputs(spec, 4, {"image": (3, 32, 64)})["image"].shape == (4, 3, 32, 64)


def test_a_model_without_batches_gets_none():
    spec = spec_of(TensorSpec("x", "FP32", (2, -1)), max_batch_size=0)
    assert make_inputs(spec, 1, {"x": (2, 5)})["x"].shape == (2, 5)


def test_optional_inputs_are_left_out():
    spec = spec_of(
        TensorSpec("x", "FP32", (-1, 1)), TensorSpec("y", "FP32", (-1, 1), optional=True)
    )
    assert list(make_inputs(spec, 1, {})) == ["x"]


@pytest.mark.parametrize(
    ("rows", "sizes", "said"),
    [
        (9, {}, "at most 8 rows"),
        (1, {"z": (1,)}, "no input 'z'"),
        (1, {"x": (4,)}, r"has shape \[3\]"),
        (1, {"x": (3, 3)}, r"has shape \[3\]"),
    ],
)
def test_what_the_model_does_not_take_is_refused(rows, sizes, said):
    with pytest.raises(InvalidInputError, match=said):
        make_inputs(spec_of(TensorSpec("x", "FP32", (-1, 3))), rows, sizes)


def test_shapes_are_read():
    assert parse_shape("image=3,224,224") == ("image", (3, 224, 224))
    assert parse_shape("scalar=") == ("scalar", ())
    for wrong in ("3,224", "=3", "image=3,x", "image=-1"):
        with pytest.raises(InvalidInputError, match="NAME=SIZE"):
            parse_shape(wrong)


async def test_it_measures_both_ways_on_a_running_stack(state, rabbitmq, redis_server, triton):
    variables = {
        "RABBITMQ_HOST": "127.0.0.1",
        "RABBITMQ_PORT": str(rabbitmq.port),
        "RABBITMQ_USERNAME": rabbitmq.username,
        "RABBITMQ_PASSWORD": rabbitmq.password,
        "TASKIQ_ML_QUEUE": "bench_command",
        "TASKIQ_ML_ROUTING_KEY": "bench_command",
        "REDIS_URL": redis_server.url,
        "TRITON_URL": triton.address,
    }
    command = [sys.executable, "-P", "-m", "bridge", "bench", "double", "--json"]
    command += ["--rows", "2", "--concurrency", "4", "--seconds", "0.4", "--rounds", "2"]
    async with WorkerPool(state, "inference", 1, variables), TritonClient([triton.address]) as own:
        before = await own.statistics("double")
        ran = subprocess.run(  # noqa: ASYNC221 - nothing else runs in this loop
            command, capture_output=True, text=True, check=False, env={**os.environ, **variables}
        )
        after = await own.statistics("double")
        table = subprocess.run(  # noqa: ASYNC221
            [part for part in command if part != "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **variables, "COLUMNS": "120"},
        )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert table.returncode == 0, table.stderr
    assert "queue : direct" in table.stdout
    assert "rows in a batch" in table.stdout
    assert report["inputs"] == {"x": [2, 4]}
    for way in report["ways"].values():
        assert 0 < way["calls_per_s"]["low"] <= way["calls_per_s"]["high"]
        assert way["rows_per_s"]["median"] == pytest.approx(2 * way["calls_per_s"]["median"])
        assert way["p50_ms"]["median"] <= way["p99_ms"]["high"]
        assert way["rows_in_a_batch"] >= 2
    assert report["queue_to_direct"]["throughput"]["median"] > 0
    # Every batch that Triton ran is in the report, but for those of the warm-up.
    counted = sum(int(s) * n for w in report["ways"].values() for s, n in w["batches"].items())
    ran_rows = sum(v.inference_count for v in after) - sum(v.inference_count for v in before)
    assert counted == ran_rows - 2 * 3 * 2
    assert np.isfinite(report["queue_to_direct"]["p99"]["median"])
