"""What the doctor finds on this machine, and of worker pools."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.doctor.findings import Severity
from bridge.embedded.ports import free_ports
from bridge.health import Health

CUT_SHORT = "only root may mount a small disk: run it as root, or what a full disk does is not seen"


@pytest.fixture
def disk(tmp_path):
    """Mounts a disk of a size."""
    mounted = []

    def mount(size):
        if os.geteuid() != 0:
            pytest.skip(CUT_SHORT)
        folder = tmp_path / size
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(folder)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            pytest.skip(f"{CUT_SHORT}: {ran.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_little_room(found, settings_of, disk):
    payloads = (disk("1g") / "payloads").as_uri()
    settings = settings_of(
        CHECKPOINT_ROOT=disk("48m") / "deep" / "down", BRIDGE_PAYLOAD_URL=payloads
    )
    codes = await found(settings, "disk")
    full = {each.what.partition(":")[0] for each in codes["disk-full"]}
    assert full == {"CHECKPOINT_ROOT", "BRIDGE_WORK_ROOT"}
    assert "BRIDGE_PAYLOAD_URL" in {
        each.what.partition(":")[0] for each in codes["disk-nearly-full"]
    }


async def test_what_is_no_disk_is_not_told(found, settings_of, tmp_path):
    checks = await found(settings_of(MODEL_REPOSITORY="/proc", DATASET_ROOT=tmp_path), "disk")
    told = [each.what for findings in checks.values() for each in findings]
    assert not any(text.startswith("MODEL_REPOSITORY") for text in told)
    assert any(text.startswith("DATASET_ROOT") for text in told)


async def test_few_descriptors(found, settings_of):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        assert set(await found(settings_of(), "descriptors")) == {"descriptors-few"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """PATH with nothing but a program of that name, which does what its script says."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return make


async def test_no_gpu(found, settings_of, nvidia_smi):
    assert set(await found(settings_of(), "gpu")) == {"gpu-absent"}


async def test_a_driver_that_reaches_no_gpu(found, settings_of, nvidia_smi):
    nvidia_smi("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    codes = await found(settings_of(), "gpu")
    assert "version mismatch" in codes["gpu-driver-broken"][0].what


async def test_a_gpu_that_onnxruntime_cannot_use(found, settings_of, nvidia_smi):
    """A made-up GPU; the onnxruntime is the installed one, for CPUs."""
    nvidia_smi("echo 'NVIDIA H100 80GB HBM3, 550.54, 81559 MiB'")
    codes = await found(settings_of(), "gpu")
    assert codes["gpu-unused"][0].severity is Severity.NOTE  # as in every training container
    assert "CPUExecutionProvider" in codes["gpu-unused"][0].what


@pytest.mark.parametrize(
    ("cuda", "seen"), [("None", False), ("'13.0'", False), ("'12.8'", True), ('"12.8"', True)]
)
async def test_a_torch_that_cannot_use_the_gpu(
    found, settings_of, nvidia_smi, tmp_path, monkeypatch, cuda, seen
):
    """A made-up GPU, and a made-up torch: the installed one is of one kind only."""
    nvidia_smi(
        """case "$*" in
        *query*) echo 'NVIDIA H100 80GB HBM3, 550.54, 81559 MiB' ;;
        *) echo '| NVIDIA-SMI 550.54     Driver Version: 550.54     CUDA Version: 12.4 |' ;;
        esac"""
    )
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text(
        f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n"
    )
    codes = await found(settings_of(), "gpu")
    assert ("torch-without-gpu" in codes) is not seen


async def test_versions(found, settings_of, tmp_path, monkeypatch):
    folder = tmp_path / "taskiq-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: taskiq\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    codes = await found(settings_of(), "versions")
    told = [each.what for each in codes["version-differs"]]
    assert [text for text in told if text.startswith("taskiq 0.0.1, tested with 0.13.")]


async def test_worker_pools(found, settings_of):
    closed, port = free_ports(2)

    async def away():
        return "Triton at gpu-1:8001 is not available"

    health = Health("127.0.0.1", port, {"triton": away}, lambda: b"")
    await health.start()
    try:
        urls = f"http://127.0.0.1:{closed}, http://127.0.0.1:{port}"
        codes = await found(settings_of(BRIDGE_WORKER_URLS=urls), "workers")
    finally:
        await health.close()
    assert set(codes) == {"worker-pool-unreachable", "worker-not-ready"}
    [worker] = codes["worker-not-ready"]
    assert worker.what.endswith(": triton: Triton at gpu-1:8001 is not available")
    assert f"process {os.getpid()} " in worker.what


def test_the_tested_versions_come_along():
    """`bridge/doctor/constraints.txt` is a link, so that the wheel has the file."""
    root = Path(__file__).parent.parent.parent
    link = root / "bridge" / "doctor" / "constraints.txt"
    assert link.read_bytes() == (root / "constraints.txt").read_bytes()
