"""A worker pool's folder is its own, also where process ids come again."""

import os
import subprocess
import tempfile
from pathlib import Path

from bridge import health
from bridge.health import pool_folder


def test_folders_of_dead_pools_go_and_those_of_living_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen(["sleep", "60"]) as other:
        stat = Path("/proc", str(other.pid), "stat").read_text()
        name = f"mlbridge-health-{os.getuid()}"
        living = tmp_path / f"{name}-{other.pid}-{stat.rpartition(')')[2].split()[19]}"
        reused, gone = tmp_path / f"{name}-{other.pid}-1", tmp_path / f"{name}-999999999-1"
        of_older_versions = tmp_path / f"{name}-{other.pid}"
        for folder in (living, reused, gone, of_older_versions):
            folder.mkdir()
            (folder / "1.json").touch()
        mine = pool_folder()
        assert set(tmp_path.iterdir()) == {mine, living}
        assert pool_folder() == mine
        other.kill()
    pool_folder()
    assert list(tmp_path.iterdir()) == [mine]


def test_where_proc_cannot_be_read_no_folder_is_taken_for_a_dead_pools(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(health, "started", lambda _pid: "")
    other = tmp_path / f"mlbridge-health-{os.getuid()}-1-"
    other.mkdir()
    mine = pool_folder()
    assert set(tmp_path.iterdir()) == {mine, other}
