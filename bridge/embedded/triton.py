"""A private Triton: NVIDIA's `tritonserver` from the nvidia-pytriton wheel.

The wheel has the Python backend only. ONNX models are served by a Python-based backend of
ours, `triton/backends/onnxruntime`, so that a repository serves here and in NVIDIA's container.
Their configs must name inputs and outputs: nothing is completed from the model.
"""

import asyncio
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from bridge.embedded.leftovers import remove_scratch, remove_shared_memory
from bridge.embedded.ports import free_ports
from bridge.embedded.probes import grpc_answers, http_ok
from bridge.embedded.process import clean_environment
from bridge.embedded.server import Server
from bridge.embedded.state import StateFolder, is_plain
from bridge.errors import RuntimeStartError
from bridge.repository import ModelRepository

_INSTALL = "pip install 'taskiq-triton-bridge[embedded]', or set TRITON_URL to one that runs"
_RESTRICTED = "model-repository,shared-memory,trace,logging"
_CANNOT_LOAD = 127  # the dynamic linker's exit code
_INSTANCE_METRIC = "bridge_onnxruntime_session_info"
_INSTANCE_LABELS = ("model", "version", "instance", "device", "provider", "nodes")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class TritonServer(Server):
    """Triton: gRPC, HTTP and metrics, each on a port of its own, on 127.0.0.1 unless told.

    Anyone who can connect may infer; loading models, shared memory, tracing and logging ask
    for `admin_key`. Triton takes the key on its command
    line only, so that users of the same machine can read it there.

    Args:
        state: where its backends and scratch files live.
        repository: the model repository.
        models: which to load at each start; by default all that the repository holds; not what
            a publisher that died left there. One that cannot be loaded does not stop the others.
        ports: of gRPC, HTTP and metrics; free ones by default.
        host: address on which it listens.
        admin_key: by default made anew.
        traces_url: where its OpenTelemetry spans go, `http://host:4318/v1/traces`; they belong to
            the trace that a request's `traceparent` names.
    """

    name = "triton"
    start_timeout_s = 120.0
    stop_timeout_s = 15.0
    remedy = "It needs Linux with glibc 2.35 or newer. If a port was taken meanwhile, try again."

    def __init__(  # noqa: PLR0913 - what can be said of a server
        self,
        state: StateFolder,
        repository: Path,
        *,
        models: Sequence[str] | None = None,
        ports: tuple[int, int, int] | None = None,
        host: str = "127.0.0.1",
        admin_key: str | None = None,
        traces_url: str | None = None,
    ) -> None:
        super().__init__(state)
        self._traces_url = traces_url
        self.repository = repository.resolve()
        self.admin_key = admin_key or secrets.token_urlsafe(32)
        self._host = host
        self.grpc_port, self.http_port, self.metrics_port = ports or free_ports(3)
        self._models = models
        self._files: _Files | None = None

    @property
    def address(self) -> str:
        """Where gRPC listens: `host:port`, as TRITON_URL takes it."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        """The HTTP address."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus reads."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    async def prepare(self) -> tuple[list[str], dict[str, str]]:
        """Its command and environment, for one who runs it in a way of his own.

        Raises:
            RuntimeStartError: it cannot run here; the text says what to do.
        """
        command = self._command()
        await self._before_start()
        return command, self._environment()

    async def instances(self) -> list[dict[str, str]]:
        """What the instances of ONNX models run on, as the backend tells Triton's metrics.

        Returns:
            For each: `model`, `version`, `instance`, `device` (as `cuda:0`), `provider`, `nodes`
            (how many each provider computes, as `CUDAExecutionProvider:122,CPUExecutionProvider:3`;
            empty where this ONNX Runtime does not tell).
        """
        text = await asyncio.to_thread(_read, self.metrics_url)
        return [
            {name: sample.labels[name] for name in _INSTANCE_LABELS}
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == _INSTANCE_METRIC
        ]

    def _command(self) -> list[str]:
        self._files = _find_files()
        models = self._models
        if models is None:
            models = ModelRepository(self.repository).models()
        key = f"triton-admin-key={self.admin_key}"
        return [
            str(self._files.program),
            f"--model-repository={self._plain_repository()}",
            f"--backend-directory={self.room / 'backends'}",
            f"--cache-directory={self.room / 'caches'}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory_prefix}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in models),
            # Asking a Python-based backend to complete a config takes 1.2 s for each load.
            "--disable-auto-complete-config",
            "--exit-on-error=false",
            "--strict-readiness=false",  # a broken model makes only itself unready
            "--exit-timeout-secs=5",
            f"--grpc-address={self._host}",
            f"--grpc-port={self.grpc_port}",
            f"--http-address={self._host}",
            f"--http-port={self.http_port}",
            f"--metrics-address={self._host}",
            f"--metrics-port={self.metrics_port}",
            f"--grpc-restricted-protocol={_RESTRICTED}:{key}",
            f"--http-restricted-api={_RESTRICTED}:{key}",
            *_tracing(self._traces_url),
        ]

    def _environment(self) -> dict[str, str]:
        environment = clean_environment()
        libraries = [str(self._found.libraries), *_python_libraries()]
        if "LD_LIBRARY_PATH" in environment:
            libraries.append(environment["LD_LIBRARY_PATH"])
        # The Python backend ignores PYTHON* variables and takes the `python3` on PATH.
        path = f"{self.room / 'python' / 'bin'}:{environment.get('PATH', os.defpath)}"
        return environment | {"PATH": path, "LD_LIBRARY_PATH": ":".join(libraries)}

    async def _before_start(self) -> None:
        if not self.repository.is_dir():
            raise RuntimeStartError(f"the model repository {self.repository} is not a folder")
        if not (self.room / "backends").exists():
            await asyncio.to_thread(self._assemble)
        stub = self.room / "backends" / "python" / "triton_python_backend_stub"
        # Without arguments it only says how it is used.
        trial = await asyncio.create_subprocess_exec(
            stub, env=self._environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        _, said = await trial.communicate()
        if trial.returncode == _CANNOT_LOAD:
            reason = said.decode(errors="replace").strip()
            raise RuntimeStartError(
                f"Triton's Python backend cannot be loaded: {reason}; "
                f"install Python's shared library (Debian, Ubuntu: apt-get install "
                f"libpython{_PYTHON}) and use glibc 2.35 or newer"
            )

    async def _after_end(self) -> None:
        remove_shared_memory(self._shared_memory_prefix)
        if self.process.started_at is not None:
            await asyncio.to_thread(remove_scratch, self.process.started_at)

    async def _answers(self) -> bool:
        # HTTP knows whether the models are loaded; gRPC, what callers use, opens beside it.
        return await http_ok("127.0.0.1", self.http_port, "/v2/health/ready") and (
            await grpc_answers("127.0.0.1", self.grpc_port)
        )

    @property
    def _shared_memory_prefix(self) -> str:
        return f"{self._state.name}-{self.room.name}-"

    @property
    def _found(self) -> "_Files":
        if self._files is None:
            self._files = _find_files()
        return self._files

    def _plain_repository(self) -> Path:
        """The repository, or a link to it where Triton's launcher would trip over its path."""
        if is_plain(self.repository):
            return self.repository
        link = self.room / "repository"
        if not link.is_symlink():
            link.symlink_to(self.repository)
        return link

    def _assemble(self) -> None:
        """Copy the backends together (Triton refuses links), and make them a Python to run on."""
        backends = self.room / "backends"
        shutil.copytree(self._found.python_backend, backends / "python", ignore=_ignored)
        shutil.copy2(self._found.stub, backends / "python")
        shutil.copytree(self._found.onnxruntime_backend, backends / "onnxruntime", ignore=_ignored)
        (self.room / "caches").mkdir()
        _make_python(self.room / "python")


@dataclass(frozen=True)
class _Files:
    """Where the parts of Triton were found."""

    program: Path
    libraries: Path
    python_backend: Path
    stub: Path
    onnxruntime_backend: Path


def _tracing(url: str | None) -> list[str]:
    if url is None:
        return []
    settings = ("mode=opentelemetry", "rate=1", "level=TIMESTAMPS", f"opentelemetry,url={url}")
    return [f"--trace-config={setting}" for setting in settings]


_ignored = shutil.ignore_patterns("__pycache__")


def _find_files() -> _Files:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeStartError(f"no Triton is installed: {_INSTALL}")
    for needed in ("numpy", "onnxruntime"):
        if importlib.util.find_spec(needed) is None:
            raise RuntimeStartError(f"{needed} is missing, Triton's models need it: {_INSTALL}")
    package = Path(next(iter(spec.submodule_search_locations)))
    server = package / "tritonserver"
    files = _Files(
        program=server / "bin" / "tritonserver",
        libraries=package.parent / "nvidia_pytriton.libs",
        python_backend=server / "backends" / "python",
        stub=server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub",
        onnxruntime_backend=_onnxruntime_backend(),
    )
    if not files.program.is_file():
        raise RuntimeStartError(f"no Triton in {package}: {_INSTALL}")
    if not files.stub.is_file():
        raise RuntimeStartError(f"Triton's wheel has no Python backend for Python {_PYTHON}")
    return files


def _read(url: str) -> str:
    with urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
        text: str = answer.read().decode()
    return text


def _onnxruntime_backend() -> Path:
    """In a checkout a link to `triton/backends` leads there; in the wheel it is a folder."""
    backend = Path(__file__).parent / "backends" / "onnxruntime"
    if not (backend / "model.py").is_file():
        raise RuntimeStartError("the onnxruntime backend is missing: install the package anew")
    return backend


def _make_python(folder: Path) -> None:
    """Make a virtual environment that sees the packages of this one, however it was made."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    # The library that the backend loads must find the standard library of its own build.
    home = base.parent if _python_libraries() else _linked_python(base.parent)
    packages = folder / "lib" / f"python{_PYTHON}" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {home}\ninclude-system-site-packages = false\n")
    seen: dict[str, None] = {}
    for name in ("numpy", "onnxruntime"):
        spec = importlib.util.find_spec(name)
        for location in () if spec is None else spec.submodule_search_locations or ():
            seen[str(Path(location).parent)] = None
    (packages / "packages.pth").write_text("".join(f"{path}\n" for path in seen))


def _python_libraries() -> list[str]:
    """Where this Python keeps its shared library, unless the linker knows it anyway."""
    folder, library = sysconfig.get_config_vars("LIBDIR", "INSTSONAME")
    if folder and library and (Path(folder) / library).is_file():
        return [str(folder)]
    return []


def _linked_python(fallback: Path) -> Path:
    """The `bin` of the installation whose shared library the linker finds by itself."""
    for prefix in (Path("/usr"), Path("/usr/local")):
        if (prefix / "lib" / f"python{_PYTHON}" / "os.py").is_file():
            return prefix / "bin"
    return fallback
