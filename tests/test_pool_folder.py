"""A worker pool's folder is its own, also where process ids come again."""

import asyncio
import errno
import os
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from bridge import health
from bridge.embedded.ports import free_ports
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


async def test_a_process_that_could_not_write_how_it_is_writes_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(health, "_EVERY_S", 0.05)
    watched = health.Health("127.0.0.1", free_ports(1)[0], {}, bytes)
    await watched.start()
    own = pool_folder() / f"{os.getpid()}.json"
    write_text = Path.write_text

    def refuse(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", refuse)
    async with asyncio.timeout(10):
        while "No space left on device" not in caplog.text:
            await asyncio.sleep(0.05)
    before = own.stat().st_mtime_ns
    monkeypatch.setattr(Path, "write_text", write_text)
    async with asyncio.timeout(10):
        while own.stat().st_mtime_ns == before:
            await asyncio.sleep(0.05)
    await watched.close()


async def test_who_gives_up_asking_is_no_error(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    port, asked = free_ports(1)[0], threading.Event()

    def metrics():
        asked.set()
        time.sleep(0.3)
        return b"x" * 2**24

    watched = health.Health("127.0.0.1", port, {}, metrics)
    await watched.start()
    with socket.create_connection(("127.0.0.1", port)) as hasty:
        hasty.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        await asyncio.to_thread(asked.wait, 10)
        hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await asyncio.sleep(1)
    await watched.close()
    assert "Error" not in capfd.readouterr().err
