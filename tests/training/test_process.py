"""The training process, as a real process: what it reports, and how it ends."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import psutil
import pytest

from bridge.errors import InvalidTrainingRequestError, TrainingFailedError
from bridge.training import job
from bridge.training.datasets import DatasetStore
from bridge.training.folders import scratch_folder, work_folder
from bridge.training.process import LOG_FILE, Listeners, Piece, train_in_process
from bridge.training.request import parse_request

ROOT = Path(__file__).parent.parent.parent


def children():
    """The training processes of this process."""
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "bridge.training.child" in process.cmdline():
                found.append(process)
    return found


async def run(settings, tmp_path, model, hyperparameters=None, *, dataset="few", on_plan=None):
    """Train in a process; returns the outcome, and the progress that was seen."""
    request = parse_request(dataset, model, hyperparameters or {"epochs": 2}, settings)
    folder = tmp_path / "work"
    folder.mkdir()
    seen = []

    async def on_progress(progress):
        seen.append(progress)

    async def on_checkpoint(file, facts):
        del file, facts

    listeners = Listeners(on_plan or (lambda _: None), on_progress, on_checkpoint)
    outcome = await train_in_process(request, folder, settings.dataset_root, Piece(), listeners)
    return outcome, seen


async def test_progress_tells_what_a_caller_wants_to_know(trained):
    epochs = [progress["epoch"] for progress in trained.progress]
    assert epochs == sorted(epochs)
    assert set(epochs) == {1, 2}
    last = trained.progress[-1]
    assert set(last) == {
        "epoch", "epochs", "step", "steps", "loss", "metric", "value", "samples_per_s",
        "time_left_s", "curve",
    }  # fmt: skip
    assert last["epochs"] == 2
    assert last["step"] == last["steps"] == 40
    assert last["metric"] == "accuracy"
    assert 0 <= last["value"] <= 1
    assert last["time_left_s"] == 0


def test_either_build_of_onnxruntime_is_named(monkeypatch):
    def version(name: str) -> str:
        if name == "onnxruntime-gpu":
            return "1.31.1"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(job, "version", version)
    found = job._libraries()
    assert (found["onnxruntime"], found["torch"]) == ("1.31.1", "unknown")


async def test_outcome_has_metrics_parity_and_versions(trained, dataset_root):
    result = trained.outcome.result
    assert result["metrics"]["epochs"] == 2
    assert result["rows"] == {"train": 240, "validation": 60}
    assert result["parity"]["batch_sizes"] == [1, 2, 7, 32]
    assert result["parity"]["max_abs_difference"] <= result["parity"]["tolerance"] == 1e-4
    assert result["parity"]["class_agreement"] == 1.0
    assert result["dataset_hash"] == DatasetStore(dataset_root).fingerprint("few")
    assert result["libraries"]["torch"].startswith("2.")
    assert str(trained.outcome.plan.signature).startswith(
        "(image FP32[-1, 8, 8]) -> (probabilities FP32[-1, 10]), max_batch_size 64"
    )


async def test_exported_model_takes_raw_rows_and_tells_nothing_of_this_machine(trained, digits):
    model = trained.folder / "version" / "model.onnx"
    assert str(ROOT).encode() not in model.read_bytes()
    assert b"site-packages" not in model.read_bytes()
    with np.load(trained.folder / "probe.npz") as probe:
        assert probe["rows"].max() > 1  # pixels as they are, 0 to 16
        np.testing.assert_allclose(probe["answers"].sum(axis=1), 1, rtol=1e-5)


@pytest.fixture
def on_a_plane(settings, tmp_path):
    """Settings with a dataset of values."""
    (tmp_path / "own").mkdir()
    values = np.random.default_rng(0).normal(size=(200, 2))
    lines = [f"{a},{b},{300 + 20 * a - 7 * b}" for a, b in values]
    (tmp_path / "own" / "plane.csv").write_text("\n".join(["a,b,target", *lines]))
    return settings.model_copy(update={"dataset_root": tmp_path / "own"})


@pytest.mark.usefixtures("architectures_of_a_user")
async def test_a_users_architecture_and_regression_from_csv(on_a_plane, tmp_path):
    outcome, seen = await run(
        on_a_plane,
        tmp_path,
        {"architecture": "linear", "options": {"bias": True}, "max_batch_size": 4},
        {"epochs": 60, "batch_size": 16, "learning_rate": 0.05, "patience": 20},
        dataset="plane",
    )
    assert outcome.result["task"] == "regression"
    assert outcome.result["columns"] == ["a", "b"]
    assert outcome.result["metrics"]["r2"] > 0.999
    assert outcome.result["parity"]["batch_sizes"] == [1, 2, 4]
    assert seen[-1]["metric"] == "mse"
    assert str(outcome.plan.signature) == (
        "(features FP32[-1, 2]) -> (values FP32[-1, 1]), max_batch_size 4"
    )


@pytest.mark.usefixtures("architectures_of_a_user")
async def test_errors_keep_their_class_and_words(settings, tmp_path):
    with pytest.raises(TrainingFailedError, match="the loss is nan after epoch 1; lower"):
        await run(settings, tmp_path, {"architecture": "diverging"})
    assert children() == []


@pytest.mark.usefixtures("architectures_of_a_user")
async def test_a_network_with_other_answers_than_were_asked_for(settings, tmp_path):
    """It went live, with a class that had no label."""
    told = r"\[12, 11\], and must with \[12, 10\]"
    with pytest.raises(InvalidTrainingRequestError, match=told):
        await run(settings, tmp_path, {"architecture": "one-more"})


@pytest.mark.usefixtures("architectures_of_a_user")
async def test_a_network_whose_values_lost_their_dimension(on_a_plane, tmp_path):
    """The loss was broadcast, so that it learnt nonsense."""
    with pytest.raises(InvalidTrainingRequestError, match=r"\[8\], and must with \[8, 1\]"):
        await run(on_a_plane, tmp_path, {"architecture": "squeezing"}, dataset="plane")


async def test_a_killed_process_is_a_clear_error(settings, tmp_path):
    def kill(_plan):
        (child,) = children()
        child.kill()

    with pytest.raises(TrainingFailedError, match=r"killed by SIGKILL .*last words"):
        await run(settings, tmp_path, {"architecture": "cnn"}, {"epochs": 10_000}, on_plan=kill)
    assert children() == []


async def test_what_a_process_printed_is_of_some_use(settings, tmp_path):
    """A warning of Lightning's own was the last word of every process that was killed."""
    await run(settings, tmp_path, {"architecture": "cnn"})
    assert (tmp_path / "work" / LOG_FILE).read_text() == ""


async def test_cancelling_ends_the_process(settings, tmp_path):
    started = asyncio.Event()
    task = asyncio.create_task(
        run(
            settings,
            tmp_path,
            {"architecture": "cnn"},
            {"epochs": 10_000},
            on_plan=lambda _: started.set(),
        )
    )
    await asyncio.wait_for(started.wait(), 60)
    (child,) = children()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(child.pid)


PARENT = """
import asyncio, pathlib, sys
from bridge.settings import Settings
from bridge.training.process import Listeners, Piece, train_in_process
from bridge.training.request import parse_request
root, folder = map(pathlib.Path, sys.argv[1:])
request = parse_request("few", {"architecture": "cnn"}, {"epochs": 10000},
                        Settings(dataset_root=root))
async def ignore(*_): pass
listeners = Listeners(lambda _: print("training", flush=True), ignore, ignore)
asyncio.run(train_in_process(request, folder, root, Piece(), listeners))
"""


def test_the_process_dies_with_its_parent(settings, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT, str(settings.dataset_root), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout.readline() == "training\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_exporting_works_where_a_folder_named_triton_is_importable():
    program = (
        "import importlib.util, os, sys, tempfile, warnings\n"
        "assert importlib.util.find_spec('triton').origin is None, 'the folder is importable'\n"
        "import bridge.training\n"
        "import numpy as np, torch\n"
        "from pathlib import Path\n"
        "from bridge.training.architectures import Network\n"
        "from bridge.training.export import compare, export\n"
        "rows = torch.randn(16, 3)\n"
        "network = Network(torch.nn.Linear(3, 2), rows, None).eval()\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    path = export(network, rows.numpy(), ('x', 'y'), Path(folder))\n"
        "    print(compare(network, path, rows.numpy(), 8)[0]['batch_sizes'])\n"
    )
    # Without -P, from the project's root.
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[1, 2, 7, 8]"


def test_work_folders_go_and_take_leftovers_along(tmp_path):
    strange = "task/of: somebody\n" * 100
    (tmp_path / "work-of-a-worker-that-was-killed").mkdir()
    with work_folder(tmp_path, "other") as other, work_folder(tmp_path, strange) as first:
        (first / "file").touch()
        with work_folder(tmp_path, strange) as second:
            assert not first.exists()
            assert second.parent == tmp_path
            assert other.exists()  # another task's, at work
            assert len(list(tmp_path.iterdir())) == 2
    assert list(tmp_path.iterdir()) == []
    assert os.fspath(second) != os.fspath(first)


def test_scratch_folders_go_and_take_those_of_the_killed_along(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "mlbridge-training-of-a-worker-that-was-killed").mkdir()
    (tmp_path / "somebody-elses").mkdir()
    with scratch_folder() as first, scratch_folder() as second:
        assert {path.name for path in tmp_path.iterdir()} == {
            first.name,
            second.name,
            "somebody-elses",
        }
    assert [path.name for path in tmp_path.iterdir()] == ["somebody-elses"]
