"""Counts in files on a disk that is full: no process dies of it, and what was counted stays."""

import contextlib
import errno
import fcntl
import os

import pytest
from prometheus_client.mmap_dict import MmapedDict

from bridge.metrics.reserved import ReservedFile


@pytest.fixture
def full_disk(monkeypatch):
    """Fill it, by `full_disk()`: for each file, what it has is all that it gets."""

    def refuse(fd, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(os, "posix_fallocate", refuse)


@pytest.fixture
def open_counts(tmp_path):
    with contextlib.ExitStack() as stack:

        def open_counts():
            counts = ReservedFile(str(tmp_path / "counter_1.db"))
            stack.callback(counts.close)
            return counts

        yield open_counts


def counted(counts):
    return {key: value for key, value, _ in counts.read_all_values()}


def on_disk(path):
    return {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(path)}


def test_a_file_has_no_holes(tmp_path, open_counts):
    path = tmp_path / "counter_1.db"
    counts = open_counts()
    counts.write_value("one", 1.0, 0.0)
    for number in range(2000):  # until it has grown
        counts.write_value(f"{number:0>64}", float(number), 0.0)
    assert path.stat().st_size > 2**17
    assert path.stat().st_blocks * 512 >= path.stat().st_size
    assert on_disk(path) == counted(counts)
    assert len(counted(counts)) == 2001


def test_without_room_for_a_file_it_counts_in_memory(tmp_path, open_counts, full_disk, caplog):
    full_disk()
    counts = open_counts()
    counts.write_value("one", 1.0, 0.0)
    assert counted(counts) == {"one": 1.0}
    assert not list(tmp_path.iterdir())  # nobody shall read half a file
    assert "No space left on device" in caplog.text


def test_without_room_to_grow_it_goes_on_in_memory(tmp_path, open_counts, full_disk):
    path = tmp_path / "counter_1.db"
    counts = open_counts()
    counts.write_value("before", 1.0, 0.0)
    full_disk()
    for number in range(4000):
        counts.write_value(f"{number:0>64}", float(number), 0.0)
    counts.write_value("before", 2.0, 0.0)
    told = counted(counts)
    assert len(told) == 4001
    assert told["before"] == 2.0
    assert told[f"{3999:0>64}"] == 3999.0
    assert on_disk(path)["before"] == 1.0


@pytest.fixture
def without_a_call(monkeypatch):
    """As ext3 and NFS: the C library fills files by writing, and none that is opened to append."""
    reserve = os.posix_fallocate

    def fill(fd, offset, length):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        reserve(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", fill)


@pytest.mark.usefixtures("without_a_call")
def test_a_file_system_that_reserves_no_room_is_filled(tmp_path, open_counts, caplog):
    counts = open_counts()
    for number in range(2000):
        counts.write_value(f"{number:0>64}", float(number), 0.0)
    assert len(on_disk(tmp_path / "counter_1.db")) == 2000
    assert not caplog.text


def test_in_memory_it_grows_again_though_the_disk_has_room(open_counts, full_disk, monkeypatch):
    counts = open_counts()
    full_disk()
    counts.write_value("x" * 2**16, 1.0, 0.0)
    monkeypatch.undo()
    for number in range(4000):
        counts.write_value(f"{number:0>64}", float(number), 0.0)
    assert len(counted(counts)) == 4001
