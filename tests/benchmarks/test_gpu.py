"""`benchmarks/gpu.py`: refused without a GPU, rehearsed on processors, and what it would conclude.

No GPU is needed, and nothing here says that one works: that is what `make gpu-check` is for.
"""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from bridgebench.gpu import needs, nets, report, session
from bridgebench.gpu.measuring import WAYS, InProcess, Measured, Plan, in_flight
from bridgebench.gpu.presence import NoGpuError, find_gpus, parse
from bridgebench.gpu.usage import Usage
from bridgebench.pages import GPU, inserted

ROOT = Path(__file__).parent.parent.parent
CHECK = ROOT / "benchmarks" / "gpu.py"
pytestmark = pytest.mark.timeout(900)

UUID = "8b1ab1bb-0000-4444-8888-123456789abc"
LINE = "0, GPU-" + UUID + ", NVIDIA L4, 23034, 580.65.06, {busy}, {used}"
OTHER = "1, GPU-0, NVIDIA L4, 23034, 580.65.06, 100, 20000"


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


def test_a_driver_too_old_is_refused_before_anything_is_installed(nvidia_smi):
    path = nvidia_smi(LINE.format(busy=0, used=1).replace("580.65.06", "570.124.06"))
    presence = ROOT / "benchmarks" / "bridgebench" / "gpu" / "presence.py"
    for command in ([sys.executable, "-P", str(presence)], [sys.executable, "-P", str(CHECK)]):
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, "PATH": path},
        )
        assert ran.returncode == 2, ran.stderr
        assert "driver is 570.124.06" in ran.stderr
        assert "580 or newer" in ran.stderr


@pytest.mark.parametrize("torchs", ["12.8", None])
def test_torch_for_another_cuda_is_refused(torchs):
    needs.check_same_cuda("13.0", "13.2")
    with pytest.raises(NoGpuError, match=f"for CUDA 13.0, and torch for {torchs}.*for CUDA 13;"):
        needs.check_same_cuda("13.0", torchs)


def test_the_gpu_is_that_which_cuda_shows_first(monkeypatch):
    """With CUDA_VISIBLE_DEVICES=1, it is nvidia-smi's number 1."""
    gpus = parse(OTHER.replace("1, ", "0, ", 1) + "\n" + LINE.format(busy=1, used=2))
    uuids = iter([UUID, "MIG-instance"])
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda _: SimpleNamespace(uuid=next(uuids))
    )
    assert needs.first_of(gpus) is gpus[1]
    assert needs.first_of(gpus) is None


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
    text += "2, GPU-2, NVIDIA GB10, [N/A], 580.65.06, [N/A], [Not Supported]\n"
    first, second = parse(text)
    assert (first.name, first.memory_mb, first.driver) == ("NVIDIA L4", 23034, "580.65.06")
    assert (first.utilisation, first.used_mb, first.memory) == (97, 812, "23,034 MiB")
    assert (second.index, second.uuid, second.memory) == (2, "GPU-2", "memory unknown")
    assert (second.utilisation, second.used_mb) == (None, None)


def test_usage_tells_what_has_changed(nvidia_smi):
    nvidia_smi(OTHER + "\n" + LINE.format(busy=0, used=500))
    with Usage(f"GPU-{UUID}") as usage:
        before = len(usage._samples)
        nvidia_smi(OTHER + "\n" + LINE.format(busy=63, used=1700))
        while len(usage._samples) < before + 2:
            usage._stop.wait(0.01)
    assert usage.grown_mb == 1200
    assert usage.utilisation == 63


def test_usage_without_an_answer_is_no_usage(nvidia_smi):
    nvidia_smi("broken", 9)
    with Usage(f"GPU-{UUID}") as usage:
        pass
    assert (usage.grown_mb, usage.utilisation) == (0, 0)


def test_usage_that_the_driver_does_not_tell_is_unknown(nvidia_smi):
    nvidia_smi(LINE.format(busy="[N/A]", used="[N/A]"))
    with Usage(f"GPU-{UUID}") as usage:
        pass
    assert (usage.grown_mb, usage.utilisation) == (None, None)
    checks = report.check_usage("x", grown_mb=None, utilisation=None, least_mb=100)
    assert [check.passed for check in checks] == [None, None]
    [table] = report.used(checks).tables
    assert [row[1:] for row in table.rows] == [("nvidia-smi does not tell", "not known")] * 2


INSTANCE = {"model": "m", "version": "1", "instance": "m_0_0"}
ALL, MOST, FEW = "{0}:5", "{0}:3,CPUExecutionProvider:2", "{0}:2,CPUExecutionProvider:2"


@pytest.mark.parametrize(
    ("instances", "passed"),
    [
        ([("cuda:0", "CUDAExecutionProvider", ALL)], True),
        ([("cuda:0", "CUDAExecutionProvider", MOST)], True),
        ([("cuda:0", "CUDAExecutionProvider", FEW)], False),
        ([("cuda:0", "CUDAExecutionProvider", "")], False),
        ([("cuda:0", "TensorrtExecutionProvider", MOST + ",CUDAExecutionProvider:1")], True),
        ([("cuda:0", "CUDAExecutionProvider", ALL), ("cpu:0", "CPUExecutionProvider", ALL)], False),
        ([("cuda:0", "CPUExecutionProvider", ALL)], False),
        ([], False),
    ],
)
def test_one_session_on_processors_is_a_failure(instances, passed):
    told = [
        INSTANCE | {"device": device, "provider": name, "nodes": nodes.format(name)}
        for device, name, nodes in instances
    ]
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
    busy = {
        net.name: {
            1: {"direct": [0.2, 0.2], "queue": [0.93, 0.95]},
            8: {"direct": [0.5, 0.7], "queue": [0.1, 0.1]},
        }
    }
    found = report.compare(plan, Measured(rates, busy))
    direct, queue = found.findings
    assert "60% (direct gRPC) and 94% (through the queue)" in found.notes[-1]
    assert found.data[net.name]["callers_busy"]["8"]["direct"] == [0.5, 0.7]
    assert found.tables[0].rows[0][-2:] == ("20%", "94%")
    assert direct.value.values == (0.95, 0.97)
    assert queue.value.values == (0.85, 0.88)
    assert (direct.verdict, queue.verdict) == ("met", "missed by 4%")


def test_in_process_plans_convolutions_as_our_backend_does(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "triton" / "backends" / "onnxruntime"))
    ours = dict(importlib.import_module("providers").plan({}, "GPU", 0).providers)
    told = []

    def opened(*_, providers, **__):
        told.append(providers)
        raise InterruptedError

    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: told.append("libraries"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    for gpu in (True, False):
        with pytest.raises(InterruptedError):
            InProcess(small_nets()[0], gpu)
    of_backend = ours["CUDAExecutionProvider"]
    cuda = {name: of_backend[name] for name in ("device_id", "cudnn_conv_algo_search")}
    assert told == [
        "libraries",
        [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"],
        ["CPUExecutionProvider"],
    ]


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
        for ways in net["callers_busy"].values():
            assert set(ways) == {"direct", "queue"}
            assert all(value > 0 for values in ways.values() for value in values)
    assert found["scenarios"]["demo"]["data"]["agreement"] == 1.0


def test_what_fails_costs_nothing_else_and_no_more_is_repeated_than_there_is_time(
    tmp_path, monkeypatch
):
    """The demo fails, and one network; of the other there is a figure for each way."""

    async def fails(_):
        raise RuntimeError("no demo\ntoday")

    monkeypatch.setattr(session, "run_demo", fails)
    cnn, encoder = small_nets()
    broken = replace(cnn, datatype="INT64")  # which its model is not
    plan = Plan([broken, encoder], (1, 2), 3, 0.1, 1, gpu=False, rows_in_flight=8, limit_s=0)
    check = session.Check(plan, 1, {}, tmp_path)
    assert session.run_blocking(check, [], lambda _: None) is False
    found = json.loads((tmp_path / "results.json").read_bytes())["scenarios"]
    assert list(found) == ["used", "throughput"]
    checks = found["used"]["data"]
    assert checks["the demo"] == {"seen": "RuntimeError: no demo today", "passed": False}
    assert "ModelLoadError" in checks["CNN"]["seen"]
    assert checks["Triton's sessions, the measurements"]["passed"] is True
    assert list(found["throughput"]["data"]) == [encoder.name]
    for ways in found["throughput"]["data"][encoder.name]["rows_per_s"].values():
        assert {way: len(values) for way, values in ways.items()} == dict.fromkeys(WAYS, 1)
    assert "no demo today" in (tmp_path / "results.md").read_text()


def test_a_rehearsal_is_not_published(tmp_path):
    ran = run("--rehearse", "--publish", path=str(tmp_path))
    assert ran.returncode == 2
    assert "no figures to publish" in ran.stderr


def test_the_page_has_its_marks():
    page = (ROOT / "docs" / "gpu.md").read_text()
    assert "figures" in inserted(page, "figures", GPU)
