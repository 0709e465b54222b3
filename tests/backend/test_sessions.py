"""Sessions on the CPU: every way of binding gives what ONNX Runtime gives.

Values on a device differ from these in their address only; whether they work there is for
`make gpu-check`.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import providers
import pytest
import sessions

TYPES = {"x": "TYPE_FP32", "y": "TYPE_FP32"}


@pytest.fixture(scope="module")
def model(save_multiplier, tmp_path_factory) -> Path:
    return save_multiplier(tmp_path_factory.mktemp("models"), "m", 3.0) / "1" / "model.onnx"


def session(model: Path, binding: str) -> sessions.Session:
    config = {"parameters": {"io_binding": {"string_value": binding}}}
    return sessions.Session(model, providers.plan(config, "CPU", 0), TYPES)


@pytest.mark.parametrize("binding", ["off", "on", "fixed"])
def test_every_way_answers_alike(model, binding):
    made = session(model, binding)
    generator = np.random.default_rng(1)
    kept = []
    for rows in (2, 5, 2, 5, 0, 2, 1):
        x = generator.standard_normal((rows, 4)).astype(np.float32)
        kept.append((x, made.run(["y"], {"x": x})["y"]))
    # Compared at the end: an answer must not change when the next batch comes.
    for x, y in kept:
        np.testing.assert_array_equal(y, 3 * x)


def test_rows_that_are_no_block_of_memory(model):
    x = np.arange(32, dtype=np.float32).reshape(4, 8)[:, ::2]
    for binding in ("on", "fixed"):
        made = session(model, binding)
        for _ in range(2):
            np.testing.assert_array_equal(made.run(["y"], {"x": x})["y"], 3 * x)


def test_only_so_many_shapes_get_buffers(model, monkeypatch):
    monkeypatch.setattr(sessions, "_MOST_SHAPES", 2)
    made = session(model, "fixed")
    for rows in (1, 2, 3, 4, 3, 1):
        x = np.full((rows, 4), rows, np.float32)
        np.testing.assert_array_equal(made.run(["y"], {"x": x})["y"], 3 * x)
    assert len(made._buffers) == 2


@pytest.mark.parametrize("binding", ["off", "on", "fixed"])
def test_what_comes_as_a_value_leaves_as_one(model, binding):
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    value = sessions.device_value(x.__dlpack__())
    y = session(model, binding).run(["y"], {"x": value})["y"]
    assert isinstance(y, ort.OrtValue)
    back = sessions.device_value(sessions.device_capsule(y))
    np.testing.assert_array_equal(back.numpy(), 3 * x)


def test_what_it_runs_on_is_told(model):
    assert session(model, "on").describe() == {
        "providers": ["CPUExecutionProvider"],
        "device": "cpu:0",
        "binding": "on",
        "graphs": False,
        "nodes": {"CPUExecutionProvider": 1},
    }


def test_a_gpu_that_cannot_be_set_up_is_an_error_not_a_slow_model(model):
    """The real thing: this onnxruntime has no CUDA, and would go on with processors."""
    warned = pytest.warns(UserWarning, match="not in available provider names")
    with warned, pytest.raises(providers.ConfigError, match="CUDA"):
        sessions.Session(model, providers.plan({}, "GPU", 0), TYPES)


def test_graph_ids_reach_the_runs(model):
    plan = providers.plan({"optimization": {"cuda": {"graphs": True}}}, "GPU", 0)
    assert sessions._run_options(plan).get_run_config_entry("gpu_graph_id") == "-1"
    options = sessions._run_options(plan, graph_id="4")
    assert options.get_run_config_entry("gpu_graph_id") == "4"
