"""This machine: disk, descriptors, GPU, installed versions."""

import asyncio
import importlib.util
import re
import resource
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bridge.doctor.findings import Finding, finding, fine
from bridge.doctor.versions import PARTS, installed
from bridge.settings import Settings

_FULL_BYTES, _NEARLY_FULL_BYTES = 256 * 2**20, 5 * 2**30
_FEW_DESCRIPTORS = 4096
_PROGRAM_S = 8.0
_PROVIDERS = "import onnxruntime; print(*onnxruntime.get_available_providers())"
_DRIVERS_CUDA = re.compile(r"CUDA[\w ]* Version\s*:\s*(\d+)")
_TORCHS_CUDA = re.compile(r"^cuda\b.*=\s*['\"]([\d.]+)['\"]", re.MULTILINE)
_PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==(\S+)$", re.MULTILINE)


async def check_disk(settings: Settings) -> list[Finding]:
    """Room where models, datasets, checkpoints and payloads are written."""
    found = []
    for variable, folder in _folders(settings).items():
        there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
        usage = shutil.disk_usage(there)
        if not usage.total:  # no disk, such as /proc
            continue
        told = (
            f"{variable}: {usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free, {folder}"
        )
        if usage.free < _FULL_BYTES:
            found.append(finding("disk-full", told))
        elif usage.free < _NEARLY_FULL_BYTES:
            found.append(finding("disk-nearly-full", told))
        else:
            found.append(fine(told))
    return found


def _folders(settings: Settings) -> dict[str, Path]:
    named = {
        "MODEL_REPOSITORY": settings.model_repository,
        "DATASET_ROOT": settings.dataset_root,
        "BRIDGE_WORK_ROOT": settings.work_root,
    }
    if isinstance(settings.checkpoint_root, Path):
        named["CHECKPOINT_ROOT"] = settings.checkpoint_root
    payloads = urlsplit(settings.payload_connect_url or "")
    if payloads.scheme == "file":
        named["BRIDGE_PAYLOAD_URL"] = Path(unquote(payloads.path))
    return {variable: folder.resolve() for variable, folder in named.items()}


async def check_descriptors(_: Settings) -> list[Finding]:
    """How many files and sockets a process started here may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    told = f"{'any number' if unlimited else soft} (hard limit {hard}), as this shell starts them"
    return [
        fine(told) if unlimited or soft >= _FEW_DESCRIPTORS else finding("descriptors-few", told)
    ]


async def check_gpu(_: Settings) -> list[Finding]:
    """NVIDIA's driver, and whether this Python's onnxruntime and torch could use the GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [finding("gpu-absent", "no nvidia-smi is on PATH")]
    query = "--query-gpu=name,driver_version,memory.total"
    code, said = await _run(program, query, "--format=csv,noheader")
    if code != 0 or not said:
        return [finding("gpu-driver-broken", said or f"nvidia-smi ended with code {code}")]
    libraries = await asyncio.gather(_onnxruntime_on_gpu(), _torch_on_gpu(program))
    return [fine("; ".join(said.splitlines())), *libraries]


async def _onnxruntime_on_gpu() -> Finding:
    if importlib.util.find_spec("onnxruntime") is None:
        return fine("no onnxruntime is installed here: Triton brings its own")
    code, providers = await _run(sys.executable, "-P", "-c", _PROVIDERS)
    told = f"onnxruntime has {providers or 'no providers'}"
    cuda = code == 0 and "CUDAExecutionProvider" in providers
    return fine(told) if cuda else finding("gpu-unused", told)


async def _torch_on_gpu(nvidia_smi: str) -> Finding:
    """By what torch was built for: to load it would take longer than a check may."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return fine("no torch is installed here: nothing is trained here")
    built = _TORCHS_CUDA.search((Path(spec.origin).parent / "version.py").read_text())
    if built is None:
        return finding("torch-without-gpu", "torch is a build without CUDA")
    _, page = await _run(nvidia_smi)
    driver = _DRIVERS_CUDA.search(page)
    told = f"torch is built for CUDA {built[1]}, the driver is for {driver[1] if driver else '?'}"
    old = driver is not None and int(driver[1]) < int(built[1].partition(".")[0])
    return finding("torch-without-gpu", told) if old else fine(told)


async def _run(*command: str) -> tuple[int, str]:
    """Exit code and output of a program that looks at something."""
    try:
        ran = await asyncio.to_thread(
            subprocess.run,
            command,
            capture_output=True,
            text=True,
            timeout=_PROGRAM_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return ran.returncode, (ran.stdout or ran.stderr).strip()


async def check_versions(_: Settings) -> list[Finding]:
    """Installed versions against those of constraints.txt, with which this was tested."""
    text = (files("bridge.doctor") / "constraints.txt").read_text()
    tested = {_canonical(name): number for name, number in _PINNED.findall(text)}
    found = []
    for name in PARTS:
        here, wanted = installed(name), tested.get(_canonical(name))
        # A local part of a version names a build: 2.13.0+cpu.
        if here is not None and wanted is not None and here.partition("+")[0] != wanted:
            found.append(finding("version-differs", f"{name} {here}, tested with {wanted}"))
    return found or [fine("the tested versions are installed")]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
