"""The dataset store, and each way in which a dataset can be wrong."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bridge.errors import DatasetError, InvalidNameError
from bridge.training.datasets import DatasetStore
from bridge.training.examples import prepare
from bridge.training.request import ModelConfig

ROWS = 40
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, 3)).astype(np.float32)
Y = np.arange(ROWS) % 2


@pytest.fixture
def store(tmp_path):
    (tmp_path / "root").mkdir()
    return DatasetStore(tmp_path / "root")


def examples(store, dataset_id="d", **model):
    splits = store.load(dataset_id, seed=0, validation_fraction=0.25)
    return prepare(splits, ModelConfig(architecture="mlp", **model))


def write_csv(path, rows, header="a,b,target"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


def good_rows(count=ROWS):
    return [f"{i}.5,{i * 2},{'even' if i % 2 == 0 else 'odd'}" for i in range(count)]


# ---- the store --------------------------------------------------------------------------


def test_add_describe_list_load(store):
    added = store.add("d", {"train": {"x": X, "target": Y}})
    size = added.pop("size_bytes")
    assert added.pop("dataset_hash") == store.fingerprint("d")
    assert size > X.nbytes
    assert added == {
        "dataset_id": "d",
        "layout": "arrow",
        "splits": {"train": ROWS},
        "columns": {
            "x": {"datatype": "float", "shape": [3]},
            "target": {"datatype": "int64", "shape": []},
        },
    }
    assert store.ids() == ["d"]
    splits = store.load("d", seed=0, validation_fraction=0.25)
    assert (len(splits.train), len(splits.validation)) == (30, 10)
    made = examples(store)
    both = np.concatenate([made.train.inputs, made.validation.inputs])
    assert sorted(both.tolist()) == sorted(X.tolist())
    assert [path.name for path in store.root.glob("[!.]*")] == ["d"]


def test_the_split_follows_the_seed(store):
    store.add("d", {"train": {"x": X, "target": Y}})
    rows = [
        list(store.load("d", seed=seed, validation_fraction=0.25).validation["target"])
        + list(store.load("d", seed=seed, validation_fraction=0.25).train["target"])
        for seed in (0, 0, 1)
    ]
    assert rows[0] == rows[1] != rows[2]


def test_a_name_is_given_once(store):
    store.add("d", {"train": {"x": X, "target": Y}})
    with pytest.raises(DatasetError, match="exists already"):
        store.add("d", {"train": {"x": X, "target": Y}})
    write_csv(store.root / "e.csv", good_rows())
    with pytest.raises(DatasetError, match="exists already"):
        store.add("e", {"train": {"x": X, "target": Y}})


@pytest.mark.parametrize("ending", ["parquet", "csv", "npz"])
def test_files_of_each_kind_are_added(store, tmp_path, ending):
    source = tmp_path / f"source.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"a": X[:, 0], "b": X[:, 1], "target": Y}), source)
    elif ending == "csv":
        write_csv(source, good_rows())
    else:
        np.savez(source, a=X[:, 0], b=X[:, 1], target=Y)
    assert store.add("d", source)["splits"] == {"train": ROWS}
    made = examples(store)
    assert made.columns == ("a", "b")
    assert (made.input_name, made.input_shape, made.outputs) == ("features", (2,), 2)
    assert made.labels == (("even", "odd") if ending == "csv" else ("0", "1"))


@pytest.mark.parametrize("ending", ["parquet", "csv", "npz"])
@pytest.mark.parametrize("layout", ["folder", "folder with validation", "file"])
def test_each_layout_is_read_where_it_lies(store, ending, layout):
    folder = store.root if layout == "file" else store.root / "d"
    folder.mkdir(exist_ok=True)
    names = {"file": ["d"], "folder": ["train"]}.get(layout, ["train", "validation"])
    for name in names:
        path = folder / f"{name}.{ending}"
        if ending == "parquet":
            pq.write_table(pa.table({"x": list(X), "y": Y}), path)
        elif ending == "csv":
            write_csv(path, [f"{row[0]},{y}" for row, y in zip(X, Y, strict=True)], "x,y")
        else:
            np.savez(path, x=X, y=Y)
    assert store.ids() == ["d"]
    assert store.describe("d")["layout"] == ending
    made = examples(store)
    whole = "validation" in names
    assert (len(made.train.inputs), len(made.validation.inputs)) == (
        (ROWS, ROWS) if whole else (30, 10)
    )
    assert made.target == "y"


def test_images_keep_their_shape(store):
    images = RANDOM.integers(0, 255, (ROWS, 2, 5, 4)).astype(np.uint8)
    store.add(
        "d", {"train": {"image": images, "label": Y}, "validation": {"image": images, "label": Y}}
    )
    made = examples(store)
    assert made.input_name == "image"
    assert made.train.inputs.dtype == np.float32
    np.testing.assert_array_equal(made.train.inputs, images)
    assert store.describe("d")["columns"]["image"] == {"datatype": "uint8", "shape": [2, 5, 4]}


def test_regression_is_recognised_by_its_fractions(store):
    store.add("d", {"train": {"x": X, "target": X[:, 0] * 2}})
    made = examples(store)
    assert (made.task, made.outputs, made.labels) == ("regression", 1, ())
    np.testing.assert_allclose(made.train.targets[:, 0], made.train.inputs[:, 0] * 2)
    store.add("whole", {"train": {"x": X, "target": np.arange(ROWS)}})
    assert examples(store, "whole", task="regression").task == "regression"


def test_classes_need_not_begin_at_zero(store):
    store.add("d", {"train": {"x": X, "target": np.where(Y == 0, -3, 40)}})
    made = examples(store)
    assert made.labels == ("-3", "40")
    assert set(made.train.targets) == {0, 1}


def test_booleans_are_classes(store):
    store.add("d", {"train": {"x": X, "target": Y == 1}})
    assert examples(store).labels == ("false", "true")


def test_reading_leaves_nothing_behind_and_needs_no_torch(store, tmp_path):
    write_csv(store.root / "d.csv", good_rows())
    program = (
        "import sys, pathlib\n"
        "from bridge.training.datasets import DatasetStore\n"
        "assert 'datasets' not in sys.modules and 'pyarrow' not in sys.modules\n"
        "store = DatasetStore(pathlib.Path(sys.argv[1]))\n"
        "store.load('d', seed=0, validation_fraction=0.2)\n"
        "assert 'datasets' in sys.modules and 'torch' not in sys.modules\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run(
        [sys.executable, "-P", "-c", program, str(store.root)],
        check=True,
        env={**os.environ, "HOME": str(home), "TMPDIR": str(home)},
        cwd=home,
    )
    assert list(home.rglob("*")) == []
    assert [path.name for path in store.root.iterdir()] == ["d.csv"]


# ---- what cannot be stored or read ------------------------------------------------------


def test_names_do_not_lead_out_of_the_root(store, tmp_path):
    write_csv(tmp_path / "secret.csv", good_rows())
    for name in ("../secret", "/etc", "..", "."):
        with pytest.raises(InvalidNameError):
            store.load(name, seed=0, validation_fraction=0.2)
    (store.root / "linked.csv").symlink_to(tmp_path / "secret.csv")
    (store.root / "folder").mkdir()
    (store.root / "folder" / "train.csv").symlink_to(tmp_path / "secret.csv")
    for name in ("linked", "folder"):
        with pytest.raises(DatasetError, match="leads out of"):
            store.load(name, seed=0, validation_fraction=0.2)
    assert store.ids() == []


def test_missing(store):
    with pytest.raises(DatasetError, match=r"there is no dataset 'd'.*mlbridge datasets"):
        store.describe("d")
    (store.root / "d").mkdir()
    with pytest.raises(DatasetError, match="there is no dataset 'd'"):
        store.describe("d")
    assert DatasetStore(Path("/nonexistent")).ids() == []


@pytest.mark.parametrize(
    ("name", "content", "shown"),
    [
        ("d.parquet", b"not parquet", "cannot read d.parquet as parquet"),
        ("d.npz", b"not a zip", "cannot read d.npz as npz"),
        ("d.csv", b"a,b\n1,2\n3\n", "cannot read d.csv as csv: .*Expected 2 columns"),
        ("d.csv", b"", "cannot read d.csv as csv: Empty CSV file"),
        ("d.csv", b"a,target\n", "is empty: split 'train' has no rows"),
    ],
)
def test_unreadable_files(store, name, content, shown):
    (store.root / name).write_bytes(content)
    with pytest.raises(DatasetError, match=shown):
        store.load("d", seed=0, validation_fraction=0.2)


def test_npz_with_objects_is_never_unpickled(store):
    np.savez(store.root / "d.npz", x=np.array([{"a": 1}] * 20, dtype=object))
    with pytest.raises(DatasetError, match=r"cannot read d\.npz"):
        store.load("d", seed=0, validation_fraction=0.2)


def test_damaged_arrow(store):
    store.add("d", {"train": {"x": X, "target": Y}})
    next(store.root.glob("d/train/*.arrow")).write_bytes(b"damage")
    with pytest.raises(DatasetError, match="cannot read the arrow folder 'd'"):
        store.load("d", seed=0, validation_fraction=0.2)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ({"train": {}}, "same number of rows"),
        ({"train": {"x": X, "y": Y[:-1]}}, "same number of rows, got {'x': 40, 'y': 39}"),
        ({"train": {"x": np.float32(3)}}, "same number of rows"),
        ({"train": {"x": X[:0], "y": Y[:0]}}, "is empty"),
        ({"train": {"x": np.array([object()] * 3)}}, "array of object"),
        ({"a": {"x": X}, "b": {"x": X}}, "none is called 'train'"),
        ({"train": {"x": X}, "validation": {"z": X}}, r"has columns \['z'\]"),
    ],
)
def test_what_add_refuses_leaves_nothing(store, source, shown):
    with pytest.raises(DatasetError, match=shown):
        store.add("d", source)
    assert list(store.root.iterdir()) == []


def test_add_refuses_what_is_no_dataset(store, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for source in (tmp_path / "notes.txt", tmp_path / "nowhere", store.root):
        with pytest.raises(DatasetError, match=r"is neither a .parquet"):
            store.add("d", source)


def test_one_split_twice(store):
    for name in ("train.csv", "train.npz"):
        write_csv(store.root / "d" / name, good_rows())
    with pytest.raises(DatasetError, match="one split twice"):
        store.load("d", seed=0, validation_fraction=0.2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_split_keeps_the_shares_of_the_classes(store, seed):
    target = np.array(["common"] * 80 + ["rare"] * 19 + ["once"])
    store.add("d", {"train": {"x": np.arange(100.0), "target": target}})
    splits = store.load(
        "d", seed=seed, validation_fraction=0.2, classes=lambda rows: np.array(rows["target"])
    )
    held_back = list(splits.validation["target"])
    assert (held_back.count("common"), held_back.count("once")) == (16, 0)
    assert held_back.count("rare") == 4
    assert sorted([*splits.train["x"], *splits.validation["x"]]) == list(range(100))


@pytest.mark.parametrize("name", ["validation", "valid", "val"])
def test_a_validation_split_alone_is_split(store, name):
    store.add("d", {name: {"x": np.arange(20)}})
    splits = store.load("d", seed=0, validation_fraction=0.2)
    assert (len(splits.train), len(splits.validation)) == (16, 4)
    assert not {*splits.train["x"]} & {*splits.validation["x"]}


def test_every_row_a_class_of_its_own_is_split_all_the_same(store):
    store.add("d", {"train": {"target": np.arange(20)}})
    splits = store.load(
        "d", seed=0, validation_fraction=0.2, classes=lambda rows: np.array(rows["target"])
    )
    assert (len(splits.train), len(splits.validation)) == (16, 4)


def test_removing_takes_one_dataset_and_a_link_alone(tmp_path):
    store = DatasetStore(tmp_path)
    rows = {"train": {"x": np.zeros((4, 2), np.float32), "target": np.arange(4) % 2}}
    store.add("kept", rows)
    store.add("gone", rows)
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "file.csv").write_text("x,target\n1,0\n2,1\n")
    for name in ("gone", "link", "file"):
        store.remove(name)
    assert store.ids() == ["kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    with pytest.raises(DatasetError, match="there is no dataset 'gone'"):
        store.remove("gone")
