"""Checkpoints on disk: whole or not at all, the newest token first."""

import json
import os
import time

import pytest

from bridge.errors import LeaseLostError
from bridge.training.checkpoints import Checkpoints, clean, digest, job_folder


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path, "../a task: of anybody\n", "request")


async def keep(checkpoints, token, step, content=b"state"):
    file = checkpoints.folder.parent.parent / "work.ckpt"
    file.write_bytes(content)
    return await checkpoints.keep(token, file, {"step": step, "sha256": digest(file)})


async def test_the_newest_token_and_step_come_first_and_two_are_kept(checkpoints):
    assert await checkpoints.newest() is None
    assert checkpoints.floor() == 0
    for token, step in ((1, 10), (1, 200), (2, 150), (2, 160)):
        await keep(checkpoints, token, step)
    newest = await checkpoints.newest()
    assert (newest.token, newest.facts["step"]) == (2, 160)
    assert newest.facts["saved_at"] <= time.time()
    assert len(list(checkpoints.folder.glob("*.ckpt"))) == 2
    with pytest.raises(LeaseLostError):
        await keep(checkpoints, 1, 999)
    assert (await checkpoints.newest()).token == 2
    checkpoints.drop()
    assert list(checkpoints.folder.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no facts", "strange facts"])
async def test_a_damaged_one_is_passed_over(checkpoints, damage):
    await keep(checkpoints, 1, 10, b"first")
    path = (await keep(checkpoints, 1, 20, b"second")).path
    facts = path.with_suffix(".json")
    match damage:
        case "cut":
            path.write_bytes(b"sec")
        case "changed":
            path.write_bytes(b"secomd")
        case "gone":
            path.unlink()
        case "no facts":
            facts.unlink()
        case "strange facts":
            facts.write_text(json.dumps(["what"]))
    assert (await checkpoints.newest()).facts["step"] == 10


async def test_another_request_has_none(checkpoints, tmp_path):
    await keep(checkpoints, 1, 10)
    other = Checkpoints(tmp_path, "../a task: of anybody\n", "another")
    assert other.folder == checkpoints.folder
    assert await other.newest() is None
    assert other.floor() == 1
    assert checkpoints.folder.parent.parent == tmp_path


async def test_logs_are_bounded_and_old_folders_go(checkpoints, tmp_path):
    log = tmp_path / "child.log"
    log.write_bytes(b"x" * 6_000_000)
    for number in range(3):
        checkpoints.add_log(f"slice {number}", log)
    kept = checkpoints.folder / "train.log"
    assert kept.stat().st_size <= 10 * 2**20 + 100
    clean(tmp_path, 3600)
    assert kept.exists()
    old = time.time() - 7200
    for path in (kept, checkpoints.folder):
        os.utime(path, (old, old))
    other = job_folder(tmp_path, "other")
    other.mkdir()
    clean(tmp_path, 3600)
    assert not checkpoints.folder.exists()
    assert other.exists()
