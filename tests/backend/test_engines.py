"""Names of cached engines. None is built: what ONNX Runtime is told is looked at."""

import engines
import onnxruntime
import providers
import pytest
import sessions

PREFIX = "trt_engine_cache_prefix"


@pytest.fixture
def version(tmp_path):
    folder = tmp_path / "1"
    (folder / "weights").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "weights" / "w.bin").write_bytes(b"weights")
    return folder


def plan(**parameters):
    entry = {"name": "tensorrt", "parameters": parameters}
    accelerators = {"gpu_execution_accelerator": [entry]}
    return providers.plan({"optimization": {"execution_accelerators": accelerators}}, "GPU", 0)


def options(version, **parameters):
    named = engines.name_engines(plan(**parameters), version / "model.onnx")
    assert named.names[0] == providers.TENSORRT
    return dict(named.providers[0][1])


def prefix(version):
    return options(version, trt_engine_cache_enable="1")[PREFIX]


def test_engines_are_those_of_the_files_that_a_model_is_made_of(version):
    first = prefix(version)
    assert len(first) == 32
    (version / "card.json").write_text("{}")
    assert prefix(version) == first, "a candidate's engine would be built again as it is published"
    (version / "weights" / "w.bin").write_bytes(b"others!")
    second = prefix(version)
    (version / "model.onnx").write_bytes(b"other")
    assert len({first, second, prefix(version)}) == 3


def test_a_name_in_the_config_stands(version):
    given = options(version, trt_engine_cache_enable="true", trt_engine_cache_prefix="mine")
    assert given[PREFIX] == "mine"


def test_without_a_cache_nothing_is_read(version):
    assert PREFIX not in options(version / "nowhere")
    assert PREFIX not in options(version / "nowhere", trt_engine_cache_enable="0")
    cuda = providers.plan({}, "GPU", 0)
    assert engines.name_engines(cuda, version / "nowhere") == cuda


def test_sessions_are_told(version, monkeypatch):
    told = []

    def opened(*_, providers, **__):
        told.extend(providers)
        raise InterruptedError

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    with pytest.raises(InterruptedError):
        sessions.Session(version / "model.onnx", plan(trt_engine_cache_enable="1"), {})
    assert told[0][1][PREFIX] == prefix(version)
