"""The built wheel, installed on its own outside the checkout, does what the checkout does."""

import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import pytest

import bridge

_DEMO_S = 280
CLEAN = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}


def run(*command, cwd, timeout=120, **variables):
    """A command with a clean environment; what it said, if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**CLEAN, **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    """Built by the backend that pyproject.toml names, as it is installed here: no internet."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    run(sys.executable, "-P", "-m", "pip", "wheel", "--quiet", *options, root, cwd=folder)
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel alone; others' packages are borrowed from this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    site = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
        ).strip()
    )
    options = ["--quiet", "--no-deps", "--no-index"]
    run(sys.executable, "-P", "-m", "pip", "--python", python, "install", *options, wheel, cwd="/")
    borrowed = dict.fromkeys(
        path for path in sys.path if path.endswith("site-packages") and Path(path).is_dir()
    )
    borrowed.setdefault(sysconfig.get_path("purelib"))
    # Lines of a .pth file go behind the environment's own packages: its `bridge` comes first. The
    # checkout's editable one is a .pth in a borrowed folder, which is not read.
    (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    return folder


def test_the_wheel_has_its_types_its_backend_and_its_one_version(wheel):
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        [metadata] = [name for name in names if name.endswith("/METADATA")]
        said = files.read(metadata).decode()
    assert "bridge/py.typed" in names
    assert "bridge/embedded/backends/onnxruntime/model.py" in names
    assert f"\nVersion: {bridge.__version__}\n" in said
    assert {name.partition("/")[0] for name in names} == {
        "bridge",
        f"taskiq_triton_bridge-{bridge.__version__}.dist-info",
    }


def test_the_installed_package_is_the_wheels(installed):
    program = "import bridge; print(bridge.__file__, bridge.__version__)"
    said = run(installed / "venv" / "bin" / "python", "-P", "-c", program, cwd=installed)
    file, version = said.split()
    assert Path(file).is_relative_to(installed)
    assert version == bridge.__version__


@pytest.mark.timeout(_DEMO_S + 60)
def test_it_runs_the_demo(installed, find_traces):
    """The main job end to end, as anybody's first command."""
    (temporary := installed / "tmp").mkdir()
    command = [installed / "venv" / "bin" / "mlbridge", "demo", "--json"]
    variables = {**CLEAN, "TMPDIR": str(temporary)}
    with (installed / "out").open("wb") as out, (installed / "err").open("wb") as err:
        demo = subprocess.Popen(command, cwd=installed, env=variables, stdout=out, stderr=err)
    states, deadline = set(), time.monotonic() + _DEMO_S
    try:
        while demo.poll() is None:
            assert time.monotonic() < deadline, (installed / "err").read_text()
            states |= set(temporary.glob("mlbridge-*"))
            time.sleep(0.1)
    finally:
        demo.terminate()
        demo.wait()
    assert demo.returncode == 0, (installed / "err").read_text()
    report = json.loads((installed / "out").read_text())
    assert report["passed"] is True
    assert report["agreement"] == 1.0
    assert all(way["accuracy"] >= 0.97 for way in report["ways"].values())
    [instance] = report["served_on"]
    assert instance["device"].startswith(("cpu:", "cuda:"))
    assert report["peak_memory_mb"] > 100
    [state] = states
    assert find_traces(state) == []
    assert list(temporary.iterdir()) == []
