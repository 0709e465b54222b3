"""The hash of a dataset's content, and the notes that spare reading it again."""

import json
import os
import shutil

import numpy as np
import pytest

from bridge.errors import DatasetError
from bridge.training import datasets as datasets_module
from bridge.training.datasets import DatasetStore

ROWS = [f"{i},{i % 2}" for i in range(20)]


@pytest.fixture
def store(tmp_path):
    (tmp_path / "root").mkdir()
    return DatasetStore(tmp_path / "root")


def lay(path, rows=ROWS, *, age_s=100):
    """A csv file that was written some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["x,target", *rows]))
    now = path.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))


@pytest.fixture
def settled(monkeypatch):
    """As if the clock had moved on since the files of a test were written."""
    monkeypatch.setattr("bridge.training.fingerprints._SETTLED_S", -1)


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files whose bytes are read."""
    read, real = [], datasets_module.content_hash

    def content_hash(files):
        read.extend(files)
        return real(files)

    monkeypatch.setattr(datasets_module, "content_hash", content_hash)
    return read


def test_the_content_counts_not_the_place_nor_the_time(store, tmp_path):
    lay(store.root / "a.csv")
    lay(store.root / "b.csv", age_s=5000)
    lay(store.root / "c" / "train.csv")
    elsewhere = DatasetStore(tmp_path / "elsewhere")
    lay(elsewhere.root / "d.csv")
    found = {store.fingerprint(name) for name in "abc"} | {elsewhere.fingerprint("d")}
    assert len(found) == 1
    assert found.pop().startswith("sha256:")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: lay(root / "a.csv", [*ROWS[:-1], "19,0"]),  # as long as before
        lambda root: shutil.move(root / "a.csv", root / "train.csv"),
    ],
)
def test_another_value_is_another_hash(store, settled, change):
    lay(store.root / "a.csv")
    before = store.fingerprint("a")
    change(store.root)
    name = "a" if (store.root / "a.csv").exists() else "train"
    assert (store.fingerprint(name) == before) == (name == "train")


def test_rows_under_another_split_are_other_data(store):
    lay(store.root / "a" / "train.csv")
    lay(store.root / "a" / "validation.csv", ROWS[:10])
    lay(store.root / "b" / "train.csv", ROWS[:10])
    lay(store.root / "b" / "validation.csv")
    assert store.fingerprint("a") != store.fingerprint("b")


def test_the_same_data_added_twice_have_one_hash(store):
    arrays = {"train": {"x": np.arange(20.0), "target": np.arange(20) % 2}}
    first, second = store.add("a", arrays), store.add("b", arrays)
    assert first["dataset_hash"] == second["dataset_hash"] == store.fingerprint("a")
    record = json.loads((store.root / "a" / ".dataset.json").read_text())
    assert record["dataset_hash"] == first["dataset_hash"]
    assert record["splits"] == {"train": 20}
    assert record["columns"]["x"] == {"datatype": "double", "shape": []}


def test_bytes_are_read_once_while_nothing_changes(store, settled, hashed):
    lay(store.root / "a.csv")
    first = store.describe("a")
    assert store.describe("a") == first
    assert store.fingerprint("a") == DatasetStore(store.root).fingerprint("a")
    assert hashed == ["train.csv"]
    lay(store.root / "a.csv", ROWS[:10])
    assert store.describe("a")["splits"] == {"train": 10}
    assert hashed == ["train.csv"] * 2
    assert store.ids() == ["a"]


def test_a_file_of_another_inode_with_the_same_size_and_time_is_read_anew(store, settled, hashed):
    lay(store.root / "a.csv")
    before = store.fingerprint("a")
    times = (store.root / "a.csv").stat()
    lay(store.root / "new", [*ROWS[:-1], "19,0"])
    os.utime(store.root / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
    (store.root / "new").replace(store.root / "a.csv")
    assert store.fingerprint("a") != before
    assert len(hashed) == 2


def test_what_was_just_written_is_not_noted(store, hashed):
    lay(store.root / "a.csv")
    now = (store.root / "a.csv").stat().st_ctime
    os.utime(store.root / "a.csv", (now, now))
    store.fingerprint("a")
    store.fingerprint("a")
    assert len(hashed) == 2


def test_damaged_or_unwritable_notes_cost_only_time(store, settled, hashed):
    lay(store.root / "a.csv")
    found = store.fingerprint("a")
    (store.root / ".notes" / "a.json").write_text("{")
    assert store.fingerprint("a") == found
    shutil.rmtree(store.root / ".notes")
    (store.root / ".notes").write_text("a file where a folder should be")
    assert store.fingerprint("a") == found
    assert len(hashed) == 3


def test_a_dataset_that_is_written_to_while_it_is_read(store, monkeypatch):
    lay(store.root / "a.csv")
    real = datasets_module.content_hash

    def content_hash(files):
        found = real(files)
        lay(store.root / "a.csv", ROWS[:5])
        return found

    monkeypatch.setattr(datasets_module, "content_hash", content_hash)
    with pytest.raises(DatasetError, match="dataset 'a': it changed while it was read"):
        store.fingerprint("a")


def test_added_data_that_were_changed_are_not_trained_on(store):
    store.add("a", {"train": {"x": np.arange(20.0), "target": np.arange(20) % 2}})
    file = next(store.root.glob("a/train/*.arrow"))
    content = bytearray(file.read_bytes())
    content[-200] ^= 1
    file.write_bytes(content)
    for look in (store.fingerprint, store.describe):
        with pytest.raises(DatasetError, match="it is not what was added"):
            look("a")
    (store.root / "a" / ".dataset.json").write_text("[]")
    with pytest.raises(DatasetError, match="is damaged; add the data anew"):
        store.fingerprint("a")
    (store.root / "a" / ".dataset.json").unlink()
    assert store.fingerprint("a")
