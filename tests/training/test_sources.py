"""Files that are stored a batch at a time, and disks that are too small for them."""

import os
import resource
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from bridge.errors import DatasetError
from bridge.training import csv_file, files, room, sources
from bridge.training.datasets import DatasetStore

ROWS = 2000


@pytest.fixture
def store(tmp_path):
    (tmp_path / "root").mkdir()
    return DatasetStore(tmp_path / "root")


@pytest.fixture
def small(monkeypatch):
    """Every file is a large one."""
    monkeypatch.setattr(sources, "BATCH_BYTES", 4000)
    monkeypatch.setattr(csv_file, "_WHOLE_CSV_BYTES", 0)
    monkeypatch.setattr(csv_file, "_CSV_BLOCK_BYTES", 1000)


def stored(store, name="d"):
    """The columns of a dataset's training split, and its number of batches."""
    table = store.splits(name)["train"].data.table
    return table.to_pydict(), len(table.to_batches())


def test_a_large_parquet_file_is_stored_in_batches(store, tmp_path, small):
    columns = {
        "x": np.arange(ROWS * 1.0),
        "text": pa.array([f"row {i % 5}" for i in range(ROWS)]).dictionary_encode(),
        "flag": np.arange(ROWS) % 2 == 0,
    }
    pq.write_table(pa.table(columns), tmp_path / "d.parquet", row_group_size=900)
    assert store.add("d", tmp_path / "d.parquet")["splits"] == {"train": ROWS}
    found, batches = stored(store)
    assert found == pa.table(columns).to_pydict()
    assert batches > 5


@pytest.mark.parametrize("threads", [1, 4])
def test_a_large_csv_file_has_the_types_of_all_its_rows(
    store, tmp_path, small, threads, monkeypatch
):
    # Arrow words its complaints by them.
    real = pyarrow.csv.ReadOptions
    monkeypatch.setattr(
        pyarrow.csv, "ReadOptions", lambda **given: real(use_threads=threads > 1, **given)
    )
    late = ROWS - 1  # known only at the end, in a block far from the first
    columns = {
        "whole": list(range(ROWS)),
        "fraction": [*range(late), 0.5],
        "text": [*range(late), "many"],
        "empty": [*[None] * late, 3],
        "flag": [i % 2 == 0 for i in range(ROWS)],
        "mixed": [*[True] * late, "maybe"],
    }
    lines = [
        ",".join("" if value is None else str(value) for value in row)
        for row in zip(*columns.values(), strict=True)
    ]
    (tmp_path / "d.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")
    store.add("d", tmp_path / "d.csv")
    found, batches = stored(store)
    assert batches > 5
    at_once = pyarrow.csv.read_csv(tmp_path / "d.csv")
    assert [str(store.splits("d")["train"].features[n].dtype) for n in columns] == [
        {"double": "float64"}.get(str(kind), str(kind)) for kind in at_once.schema.types
    ]
    assert found == at_once.to_pydict()


def test_an_npz_file_is_read_some_rows_at_a_time(store, tmp_path, small):
    rng = np.random.default_rng(0)
    columns = {
        "image": rng.integers(0, 255, (ROWS, 2, 3)).astype(np.uint8),
        "value": rng.normal(size=ROWS),
        "name": np.array([f"class {i % 3}" for i in range(ROWS)]),
        "flag": np.arange(ROWS) % 2 == 0,
    }
    np.savez_compressed(tmp_path / "d.npz", **columns)
    store.add("d", tmp_path / "d.npz")
    found, batches = stored(store)
    assert batches > 5
    assert found == {name: column.tolist() for name, column in columns.items()}
    # Columns before rows: such an array is read whole.
    np.savez(tmp_path / "e.npz", x=np.asfortranarray(rng.normal(size=(ROWS, 2))), y=columns["name"])
    store.add("e", tmp_path / "e.npz")
    assert len(stored(store, "e")[0]["x"]) == ROWS


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        ({"x": np.arange(5), "y": np.arange(6)}, "same number of rows, got {'x': 5, 'y': 6}"),
        ({"x": np.array(3)}, "same number of rows"),
        ({}, "same number of rows"),
        ({"x": np.array([{}])}, "'x.npy' in it is an array of Python objects"),
        ({"x": np.array(["2020-01-01"], "datetime64[D]")}, "only numbers, booleans and one text"),
    ],
)
def test_npz_files_that_are_wrong(store, tmp_path, columns, shown):
    np.savez(tmp_path / "d.npz", **columns)
    with pytest.raises(DatasetError, match=shown):
        store.add("d", tmp_path / "d.npz")


def test_an_npz_file_of_a_machine_with_another_byte_order(store, tmp_path):
    x, y = np.arange(40.0).reshape(20, 2) / 3, np.arange(20)
    np.savez(tmp_path / "d.npz", x=x.astype(">f8"), y=y.astype(">i4"))
    store.add("d", tmp_path / "d.npz")
    found, _ = stored(store)
    assert found == {"x": x.tolist(), "y": y.tolist()}


def test_a_damaged_npz_file(store, tmp_path):
    np.savez_compressed(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=20_000))
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"cannot read d\.npz as npz"):
        store.add("d", tmp_path / "d.npz")
    assert list(store.root.glob("[!.]*")) == []


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz"])
def test_no_more_than_some_batches_are_in_hand(tmp_path, monkeypatch, ending):
    """With batches of 64 kB, of a table of 16 MB."""
    monkeypatch.setattr(sources, "BATCH_BYTES", 1 << 16)
    monkeypatch.setattr(csv_file, "_WHOLE_CSV_BYTES", 0)
    monkeypatch.setattr(csv_file, "_CSV_BLOCK_BYTES", 1 << 14)
    rows = np.random.default_rng(0).integers(0, 10**9, (8, 250_000))
    table = pa.table({f"column {number}": column for number, column in enumerate(rows)})
    path = tmp_path / f"d.{ending}"
    if ending == "csv":
        pyarrow.csv.write_csv(table, path)
    elif ending == "parquet":
        pq.write_table(table, path, row_group_size=10_000)
    else:
        np.savez(path, **dict(zip(table.column_names, rows, strict=True)))
    whole, total = table.nbytes, table["column 0"].to_numpy().sum()
    del table
    [source] = files.open_sources(path).values()
    before, most, found = pa.total_allocated_bytes(), 0, 0
    for batch in source.batches():
        found += batch["column 0"].to_numpy().sum()
        most = max(most, pa.total_allocated_bytes() - before)
    assert found == total
    assert most < whole / 4


def test_a_csv_line_may_be_longer_than_a_block(store, tmp_path, small):
    header = ",".join(f"column_{number}" for number in range(400))
    line = ",".join(str(number) for number in range(400))
    (tmp_path / "d.csv").write_text("\n".join([header, *[line] * 50]))
    assert store.add("d", tmp_path / "d.csv")["splits"] == {"train": 50}


def lay_csv(path, rows):
    columns = {"a": [*map(str, rows)], "b": range(len(rows))}
    pyarrow.csv.write_csv(pa.table(columns), path)
    return columns | {"b": [*range(len(rows))]}


@pytest.mark.parametrize(
    "rows",
    [["one\ntwo, three"] * 100_000, ["one", "long " * 600_000, "three"]],
    ids=["broken lines", "a line longer than a block"],
)
def test_a_csv_file_that_is_read_at_once_holds_any_text(store, tmp_path, rows):
    wanted = lay_csv(tmp_path / "d.csv", rows)
    store.add("d", tmp_path / "d.csv")
    assert stored(store)[0] == wanted


def test_text_of_a_large_csv_file_may_have_several_lines(store, tmp_path, small):
    wanted = lay_csv(tmp_path / "d.csv", ["one\ntwo, three"] * ROWS)
    store.add("d", tmp_path / "d.csv")
    assert stored(store)[0] == wanted


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("a,b\n" + "1,2\n" * ROWS + "3\n", "cannot read d.csv as csv: .*Expected 2 columns"),
        ("", "cannot read d.csv as csv: Empty CSV file"),
        ("a,b\n", "is empty: split 'train' has no rows"),
        ("a,a\n1,2\n", "two columns of one name: 'a'"),
    ],
)
def test_a_large_csv_file_that_is_wrong(store, tmp_path, small, content, shown):
    (tmp_path / "d.csv").write_text(content)
    with pytest.raises(DatasetError, match=shown):
        store.add("d", tmp_path / "d.csv")
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("values", [["one"] * ROWS, range(ROWS)])
def test_a_large_csv_file_that_is_not_utf_8(store, tmp_path, small, values):
    """Found far from the first block, of which arrow takes the types."""
    text = "\n".join(["a,b", *(f"{value},1" for value in values), "caf\u00e9,1"])
    (tmp_path / "d.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match="column 'a' holds text that is not UTF-8; convert"):
        store.add("d", tmp_path / "d.csv")


def test_a_small_csv_file_that_is_not_utf_8(store):
    (store.root / "d.csv").write_bytes("x,label\n1,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="column 'label' holds text that is not UTF-8; convert"):
        store.describe("d")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("rows", [3, ROWS])
def test_a_csv_file_in_utf_16(store, tmp_path, small, encoding, rows):
    """Excel's "Unicode text"."""
    text = "\ufeffa,b\n" + "1,2\n" * rows
    (tmp_path / "d.csv").write_bytes(text.encode(encoding))
    with pytest.raises(DatasetError, match=r"not UTF-8; .*: iconv -f UTF-16 -t UTF-8"):
        store.add("d", tmp_path / "d.csv")


def test_a_file_laid_by_hand_that_memory_does_not_hold(store, monkeypatch):
    np.savez(store.root / "d.npz", x=np.arange(1000.0), target=np.arange(1000) % 2)
    monkeypatch.setattr(room, "free_memory", lambda: 20_000)
    with pytest.raises(DatasetError, match=r"takes about 16\.\d kB of memory, twice, and 20\.0 kB"):
        store.splits("d")


# ---- the disk ---------------------------------------------------------------------------


def test_no_room_is_told_before_anything_is_written(store, tmp_path, monkeypatch):
    pq.write_table(pa.table({"x": np.zeros(10_000_000)}), tmp_path / "d.parquet")
    monkeypatch.setattr(room, "free_disk", lambda _: 50_000_000)
    with pytest.raises(DatasetError) as told:
        store.add("d", tmp_path / "d.parquet")
    assert "dataset 'd': there is no room: it takes about 80.0 MB on disk" in str(told.value)
    free = f"50.0 MB are free in {store.root}, of which 16.8 MB shall stay free"
    assert f"{free}; nothing was kept" in str(told.value)
    assert list(store.root.iterdir()) == []


def test_room_that_somebody_else_takes_meanwhile(store, tmp_path, monkeypatch, small):
    pq.write_table(pa.table({"x": np.arange(ROWS * 1.0)}), tmp_path / "d.parquet")
    free = iter([10**9] * 3)
    monkeypatch.setattr(room, "free_disk", lambda _: next(free, 1000))
    with pytest.raises(DatasetError, match=r"there is no room: it takes about .* 1\.0 kB are"):
        store.add("d", tmp_path / "d.parquet")
    assert list(store.root.iterdir()) == []


def test_what_a_killed_add_left_is_removed_by_a_later_one(store):
    for name, age_s in ((".add-dead", 7200), (".add-alive", 10)):
        (store.root / name).mkdir()
        (store.root / name / "data").write_text("half")
        for path in (store.root / name / "data", store.root / name):
            os.utime(path, (time.time() - age_s,) * 2)
    store.add("d", {"train": {"x": np.arange(20)}})
    assert sorted(path.name for path in store.root.glob(".add*")) == [".add-alive"]


def test_a_write_that_the_system_refuses(store, tmp_path):
    """A real one: the process may write no file of more than 100 kB."""
    pq.write_table(pa.table({"x": np.random.default_rng(0).random(50_000)}), tmp_path / "d.parquet")
    program = (
        "import pathlib, resource, sys\n"
        "from bridge.errors import DatasetError\n"
        "from bridge.training.datasets import DatasetStore\n"
        "root, source = map(pathlib.Path, sys.argv[1:])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    DatasetStore(root).add('d', source)\n"
        "except DatasetError as error:\n"
        "    print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program, str(store.root), str(tmp_path / "d.parquet")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "dataset 'd': there is no room: it takes about " in ran.stdout
    assert "File too large" in ran.stdout
    assert list(store.root.iterdir()) == []


# ---- memory -----------------------------------------------------------------------------


def test_free_memory_heeds_limits(monkeypatch, tmp_path):
    whole = room.free_memory()
    assert 0 < whole <= room.psutil.virtual_memory().total
    assert room.most_in_memory() <= whole
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 3000000\ninactive_file 250000\n")
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    assert room.free_memory() == 1_250_000
    (tmp_path / "memory.max").write_text("max\n")
    assert room.free_memory() > 1_250_000
    used = room.psutil.Process().memory_info().vms
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (used // 2 if kind == resource.RLIMIT_AS else -1, -1)
    )
    assert room.free_memory() == 0
