"""What a machine refuses to a training at its start has passed, perhaps, at the next try."""

import asyncio
import errno
import tempfile

import pytest

from bridge.errors import CheckpointError, Fate, RepositoryWriteError, TrainingCrashedError
from bridge.training.folders import scratch_folder, work_folder
from bridge.training.process import Listeners, Piece, train_in_process
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn

CNN = {"architecture": "cnn"}


async def ignore(*_):
    """Hear nothing."""


def go_on(settings, triton, **model):
    request = parse_request("few", {**CNN, "model_id": "few", **model}, {"epochs": 1}, settings)
    return Training(request, "t", settings, triton).go_on(Turn(), ignore)


def test_a_place_that_takes_no_folder_is_told_with_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with (
        pytest.raises(CheckpointError, match=r"cannot work in .*free room there, or set BRIDGE_WO"),
        work_folder(tmp_path / "file", "t"),
    ):
        pass
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(CheckpointError, match=r"temporary files.* or set TMPDIR"), scratch_folder():
        pass
    assert CheckpointError.fate is Fate.RETRY


def test_a_folder_that_cannot_get_its_name_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.rename", full)
        with pytest.raises(CheckpointError, match="No space left"), work_folder(tmp_path, "t"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_what_fails_within_a_folder_keeps_its_class(tmp_path):
    with pytest.raises(FileNotFoundError), work_folder(tmp_path, "t") as folder:
        (folder / "none").read_bytes()
    assert list(tmp_path.iterdir()) == []


async def test_a_machine_with_no_room_for_a_process(settings, tmp_path, monkeypatch):
    async def refuse(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    request = parse_request("few", CNN, {"epochs": 1}, settings)
    listeners = Listeners(lambda _: None, ignore, ignore)
    with pytest.raises(TrainingCrashedError, match=r"cannot start .* temporarily unav") as raised:
        await train_in_process(request, tmp_path, settings.dataset_root, Piece(), listeners)
    assert raised.value.fate is Fate.RETRY


@pytest.mark.usefixtures("trainings")
@pytest.mark.parametrize("name", ["few", "parent"])
async def test_a_repository_that_is_away(settings, fake_triton, name):
    settings.model_repository.mkdir()
    # As a mount that is away: it is there, and nobody can look into it.
    (settings.model_repository / name).symlink_to(name)
    model = {"from_model": "parent"} if name == "parent" else {}
    with pytest.raises(RepositoryWriteError, match=r"cannot use the model rep.*symbolic") as raised:
        await go_on(settings, fake_triton, **model)
    assert raised.value.fate is Fate.RETRY
