"""Rows that are read a batch at a time are the rows that memory would hold."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bridge.errors import DatasetError
from bridge.training import streams
from bridge.training.datasets import DatasetStore
from bridge.training.moments import mean_and_scale
from bridge.training.opening import open_examples
from bridge.training.request import Hyperparameters, ModelConfig
from bridge.training.streams import Stream

ROWS = 1000
RANDOM = np.random.default_rng(0)
TARGET = np.arange(ROWS) % 3


@pytest.fixture
def store(tmp_path):
    (tmp_path / "root").mkdir()
    return DatasetStore(tmp_path / "root")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """So that a thousand rows lie in many batches and are read in many pieces."""
    monkeypatch.setattr("bridge.training.sources.BATCH_BYTES", 1000)
    monkeypatch.setattr(streams, "_PIECE_BYTES", 2000)


@pytest.fixture
def streamed(monkeypatch):
    monkeypatch.setattr("bridge.training.room.most_in_memory", lambda: 0)


def examples(store, **model):
    return open_examples(
        store, "d", ModelConfig(architecture="mlp", target="y", **model), Hyperparameters()
    )


COLUMNS = {
    "numbers side by side": (
        {
            "a": RANDOM.normal(size=ROWS),
            "b": RANDOM.integers(-5, 5, ROWS),
            "c": RANDOM.integers(0, 2, ROWS) == 1,
            "d": RANDOM.normal(size=(ROWS, 3)).astype(np.float32),
        },
        (6,),
    ),
    "one number": ({"a": RANDOM.integers(0, 200, ROWS).astype(np.uint8)}, (1,)),
    "booleans": ({"a": RANDOM.integers(0, 2, (ROWS, 4)) == 1}, (4,)),
    "images": ({"a": RANDOM.integers(0, 200, (ROWS, 2, 3, 4)).astype(np.uint8)}, (2, 3, 4)),
}


@pytest.mark.parametrize(("columns", "shape"), COLUMNS.values(), ids=COLUMNS)
def test_streamed_rows_are_those_in_memory(store, monkeypatch, columns, shape):
    store.add("d", {"train": {**columns, "y": TARGET}})
    whole = examples(store)
    monkeypatch.setattr("bridge.training.room.most_in_memory", lambda: 0)
    lazy = examples(store)
    assert isinstance(whole.train.inputs, np.ndarray)
    assert isinstance(lazy.train.inputs, Stream)
    assert lazy.input_shape == whole.input_shape == shape
    picked = RANDOM.permutation(len(lazy.train.inputs))[:100]
    for found, wanted in ((lazy.train, whole.train), (lazy.validation, whole.validation)):
        assert found.inputs.shape == wanted.inputs.shape
        np.testing.assert_array_equal(found.targets, wanted.targets)
        np.testing.assert_array_equal(found.inputs[:], wanted.inputs)
        np.testing.assert_array_equal(found.inputs[3:8], wanted.inputs[3:8])
        some = picked[picked < len(found.inputs)]
        assert found.inputs[some].dtype == np.float32
        np.testing.assert_array_equal(found.inputs[some], wanted.inputs[some])
    assert len(store.splits("d")["train"].data.table.to_batches()) > 1


def test_a_split_selects_rows_and_copies_none(store, streamed):
    store.add("d", {"train": {"a": RANDOM.normal(size=(ROWS, 50)), "y": TARGET}})
    made = examples(store)
    train = made.train.inputs
    # Views of the file that arrow mapped; the selection is a list of row numbers.
    assert all(not part.flags.owndata for batch in train._batches for part in batch)
    assert len(train._rows) == len(train) == 800
    assert pa.total_allocated_bytes() < ROWS * 50 * 8


def test_lists_of_any_kind_are_streamed(store, streamed):
    rows = RANDOM.normal(size=(ROWS, 3))
    pq.write_table(pa.table({"a": list(rows), "y": TARGET}), store.root / "d.parquet")
    made = examples(store)
    assert made.input_shape == (3,)
    found = np.concatenate([made.train.inputs[:], made.validation.inputs[:]])
    assert sorted(found.tolist()) == sorted(rows.astype(np.float32).tolist())


def test_a_bad_value_is_told_with_its_row(store, streamed):
    rows = RANDOM.normal(size=(ROWS, 3))
    rows[777, 1] = np.nan
    rows[778] = 1e300
    store.add(
        "d", {"train": {"a": rows, "y": TARGET}, "validation": {"a": rows[:9], "y": TARGET[:9]}}
    )
    with pytest.raises(DatasetError, match=r"in 2 of 1000 rows \(first in row 777 of its split"):
        examples(store)


def test_rows_without_a_value(store):
    pq.write_table(pa.table({"a": [[]] * 20, "y": TARGET[:20]}), store.root / "d.parquet")
    with pytest.raises(DatasetError, match="column 'a'"):
        examples(store)


@pytest.mark.parametrize("axes", [[0], [0, 2, 3], [0, 1, 2, 3]])
def test_mean_and_scale_of_pieces_are_those_of_all(axes):
    rows = (RANDOM.normal(size=(ROWS, 2, 3, 4)) * [1, 10, 100, 1] + 1e4).astype(np.float32)
    kept = rows.copy()
    mean, scale = mean_and_scale(rows, axes)
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=tuple(axes), keepdims=True)[0], rtol=1e-12)
    np.testing.assert_allclose(scale, wide.std(axis=tuple(axes), keepdims=True)[0], rtol=1e-9)
    np.testing.assert_array_equal(rows, kept)


TRAIN = """
import json, pathlib, sys
from bridge.training import job, room
from bridge.training.request import Hyperparameters, ModelConfig, TrainingRequest
request = TrainingRequest(
    dataset_id="d", model_id="d", model=ModelConfig(architecture="mlp", target="y"),
    hyperparameters=Hyperparameters(epochs=2),
)
for name in ("memory", "stream"):
    told, folder = {}, pathlib.Path(sys.argv[1], name)
    folder.mkdir()
    task = {"request": request.model_dump(mode="json"), "dataset_root": sys.argv[2]}
    job.work(task, folder, told.__setitem__)
    print(json.dumps(told["result"]))
    room.most_in_memory = lambda: 0
"""


def test_a_streamed_training_is_the_one_in_memory(store, tmp_path):
    rows = RANDOM.normal(size=(ROWS, 4)).astype(np.float32)
    store.add("d", {"train": {"x": rows, "y": rows[:, 0] > 0}})
    ran = subprocess.run(
        [sys.executable, "-P", "-c", TRAIN, str(tmp_path), str(store.root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    memory, stream = map(json.loads, ran.stdout.splitlines())
    assert memory["metrics"] == pytest.approx(stream["metrics"])
    assert stream["parity"]["class_agreement"] == 1.0
