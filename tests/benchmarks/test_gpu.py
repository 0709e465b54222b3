"""`benchmarks/gpu.py`: refused without a GPU, rehearsed on processors, and what it would conclude.

No GPU is needed, and nothing here says that one works: that is what `make gpu-check` is for.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from bridgebench.gpu import nets, report
from bridgebench.gpu.measuring import WAYS, Plan, in_flight
from bridgebench.gpu.presence import NoGpuError, find_gpus, parse
from bridgebench.gpu.usage import Usage
from bridgebench.pages import GPU, inserted

ROOT = Path(__file__).parent.parent.parent
CHECK = ROOT / "benchmarks" / "gpu.py"
pytestmark = pytest.mark.timeout(900)

LINE = "0, NVIDIA L4, 23034, 580.65.06, {busy}, {used}"


def small_nets() -> list[nets.Net]:
    return [
        nets.cnn(nets.CnnSize(32, (1, 1), 8)),
        nets.encoder(nets.EncoderSize(1000, 8, 1, 16, 2)),
    ]


def run(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", str(CHECK), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
    )


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a program of that name on PATH, alone: it prints, and ends with a code."""

    def put(text: str, code: int = 0) -> str:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "said").write_text(text)
        program = folder / "nvidia-smi"
        program.write_text(f'#!/bin/sh\n/bin/cat "{folder}/said"\nexit {code}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return str(folder)

    return put


def test_without_a_driver_it_refuses_at_once_with_the_remedy(tmp_path):
    ran = run(path=str(tmp_path))
    assert ran.returncode == 2, ran.stderr
    assert "no nvidia-smi" in ran.stderr
    assert "nvidia-container-toolkit" in ran.stderr
    assert "make gpu-rehearsal" in ran.stderr


def test_make_refuses_before_it_installs_anything(tmp_path):
    """With the machine's own make, and a PATH on which no driver is."""
    ran = subprocess.run(
        ["make", "gpu-check", f"PYTHON={sys.executable}", f"GPU_VENV={tmp_path / 'none'}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}"},
        executable=_program("make"),
    )
    assert ran.returncode == 2
    assert "no nvidia-smi" in ran.stderr
    assert not (tmp_path / "none").exists()


def _program(name: str) -> str:
    for folder in os.defpath.split(":") + os.environ["PATH"].split(":"):
        if folder and (Path(folder) / name).is_file():
            return str(Path(folder) / name)
    pytest.fail(f"this test needs {name}: apt-get install {name}")


def test_a_gpu_without_the_right_onnxruntime_is_refused_too(nvidia_smi):
    ran = run(path=nvidia_smi(LINE.format(busy=0, used=1)))
    assert ran.returncode == 2, ran.stderr
    assert "no CUDAExecutionProvider" in ran.stderr
    assert "onnxruntime-gpu[cuda,cudnn]" in ran.stderr


@pytest.mark.parametrize(
    ("said", "code", "reason"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate", 9, "couldn't communicate.*load"),
        ("", 0, "shows no GPU.*--gpus all"),
    ],
)
def test_why_no_gpu_answers(nvidia_smi, said, code, reason):
    nvidia_smi(said, code)
    with pytest.raises(NoGpuError, match=reason):
        find_gpus()


def test_what_nvidia_smi_says_is_read():
    text = LINE.format(busy=97, used=812) + "\n1, a line that is something else\n"
    text += "2, NVIDIA A100-SXM4-80GB, 81920, 580.65.06, [N/A], 5\n"
    first, second = parse(text)
    assert (first.name, first.memory_mb, first.driver) == ("NVIDIA L4", 23034, "580.65.06")
    assert (first.utilisation, first.used_mb) == (97, 812)
    assert (second.index, second.utilisation) == (2, 0)


def test_usage_tells_what_has_changed(nvidia_smi):
    nvidia_smi(LINE.format(busy=0, used=500))
    with Usage(0) as usage:
        before = len(usage._samples)
        nvidia_smi(LINE.format(busy=63, used=1700))
        while len(usage._samples) < before + 2:
            usage._stop.wait(0.01)
    assert usage.grown_mb == 1200
    assert usage.utilisation == 63


def test_usage_without_an_answer_is_no_usage(nvidia_smi):
    nvidia_smi("broken", 9)
    with Usage(0) as usage:
        pass
    assert (usage.grown_mb, usage.utilisation) == (0, 0)


INSTANCE = {"model": "m", "version": "1", "instance": "m_0_0"}


@pytest.mark.parametrize(
    ("instances", "passed"),
    [
        ([("cuda:0", "CUDAExecutionProvider")], True),
        ([("cuda:0", "TensorrtExecutionProvider")], True),
        ([("cuda:0", "CUDAExecutionProvider"), ("cpu:0", "CPUExecutionProvider")], False),
        ([("cuda:0", "CPUExecutionProvider")], False),
        ([], False),
    ],
)
def test_one_session_on_processors_is_a_failure(instances, passed):
    told = [INSTANCE | {"device": device, "provider": name} for device, name in instances]
    assert report.check_instances("x", told, "cuda:").passed is passed


@pytest.mark.parametrize(
    ("grown", "busy", "passed"),
    [(200, 1, [True, True]), (99, 1, [False, True]), (200, 0, [True, False])],
)
def test_memory_and_utilisation_must_both_show(grown, busy, passed):
    checks = report.check_usage("x", grown_mb=grown, utilisation=busy, least_mb=100)
    assert [check.passed for check in checks] == passed


def test_saturation_is_the_best_batch_of_each_way():
    net = small_nets()[0]
    plan = Plan([net], (1, 8), 2, 1.0, 1, gpu=True)
    rates = {
        net.name: {
            1: {"process": [50.0, 60.0], "direct": [95.0, 10.0], "queue": [80.0, 88.0]},
            8: {"process": [100.0, 100.0], "direct": [90.0, 97.0], "queue": [85.0, 80.0]},
        }
    }
    direct, queue = report.compare(plan, rates).findings
    assert direct.value.values == (0.95, 0.97)
    assert queue.value.values == (0.85, 0.88)
    assert (direct.verdict, queue.verdict) == ("met", "missed by 4%")


def test_requests_in_flight_keep_batches_full():
    assert [in_flight(batch, 512) for batch in (1, 2, 8, 128)] == [256, 256, 64, 4]


def test_networks_are_right_for_any_batch_and_finite_in_fp16():
    for net in small_nets():
        onnx.checker.check_model(net.model, full_check=True)
        session = onnxruntime.InferenceSession(
            net.model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        several = session.run(["y"], {"x": net.rows(5)})[0]
        assert several.dtype == np.float16
        assert several.shape == (5, nets.CLASSES)
        assert np.isfinite(several).all()
        assert (several.std(axis=0) > 0).any(), "it answers the same whatever is asked"


def test_the_encoder_has_about_100_million_parameters():
    size = nets.EncoderSize()
    layer = 12 * size.width**2 + 13 * size.width
    tables = (size.vocabulary + size.length) * size.width
    assert 95e6 < size.layers * layer + tables < 105e6


def test_a_rehearsal_runs_everything_and_says_that_it_is_one(tmp_path):
    page = (ROOT / "docs" / "gpu.md").read_bytes()
    ran = run("--rehearse", "--out", str(tmp_path), path=os.environ["PATH"])
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert (ROOT / "docs" / "gpu.md").read_bytes() == page
    assert "No GPU was used".lower() in (tmp_path / "results.md").read_text().lower()
    found = json.loads((tmp_path / "results.json").read_bytes())
    assert found["rehearsal"] is True
    assert list(found["scenarios"]) == ["used", "throughput", "demo"]
    checks = found["scenarios"]["used"]["data"]
    assert len(checks) == 3
    assert all(check["passed"] for check in checks.values())
    assert "cpu:0" in checks["Triton's sessions, the measurements"]["seen"]
    for net in found["scenarios"]["throughput"]["data"].values():
        for ways in net["rows_per_s"].values():
            assert {way: len(values) for way, values in ways.items()} == dict.fromkeys(WAYS, 1)
            assert all(value > 0 for values in ways.values() for value in values)
    assert found["scenarios"]["demo"]["data"]["agreement"] == 1.0


def test_a_rehearsal_is_not_published(tmp_path):
    ran = run("--rehearse", "--publish", path=str(tmp_path))
    assert ran.returncode == 2
    assert "no figures to publish" in ran.stderr


def test_the_page_has_its_marks():
    page = (ROOT / "docs" / "gpu.md").read_text()
    assert "figures" in inserted(page, "figures", GPU)
