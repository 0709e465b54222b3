"""Columns that cannot be trained on, each told with the column and the remedy."""

import re
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bridge.errors import DatasetError, InvalidNameError
from bridge.training.datasets import DatasetStore
from bridge.training.examples import prepare
from bridge.training.request import ModelConfig

ROWS = 40
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
Y = np.arange(ROWS) % 2


@pytest.fixture
def store(tmp_path):
    (tmp_path / "root").mkdir()
    return DatasetStore(tmp_path / "root")


@pytest.fixture(autouse=True, params=["in memory", "streamed"])
def way(request, monkeypatch):
    """Rows that are read a piece at a time are checked as those in memory are."""
    if request.param == "streamed":
        monkeypatch.setattr("bridge.training.room.most_in_memory", lambda: 0)


def examples(store, dataset_id="d", **model):
    splits = store.load(dataset_id, seed=0, validation_fraction=0.25)
    return prepare(splits, ModelConfig(architecture="mlp", **model))


FLAGS = np.stack([Y, 1 - Y, Y], axis=1)
NAN = np.where(np.arange(ROWS)[:, None] == 20, np.nan, X)


@pytest.mark.parametrize(
    ("columns", "model", "shown"),
    [
        ({"x": X, "target": Y}, {"input": "z"}, "no column 'z'; there are 'x', 'target'"),
        ({"x": Y.astype(str), "t": Y}, {"target": "z"}, "no target column 'z'; there are 'x', 't'"),
        ({"x": X, "t": Y}, {}, "cannot tell which column is the target"),
        ({"x": X, "y": Y, "label": Y}, {}, "cannot tell which column is the target"),
        ({"target": Y}, {}, "no column beside the target"),
        ({"x": NAN, "target": Y}, {}, "column 'x' has NaN, infinite or too large values in 1 of"),
        ({"x": X * np.inf, "target": Y}, {}, "has NaN, infinite"),
        ({"x": X.astype(float) * 1e300, "target": Y}, {}, "too large values"),
        ({"x": X, "target": NAN[:, 0]}, {}, "column 'target' has NaN"),
        ({"x": Y.astype(str), "z": X, "target": Y}, {}, "column 'x' holds text, not numbers"),
        (
            {"text": Y.astype(str), "target": Y},
            {},
            "turn the text into numbers, or learn from it alone: .*transformer -c input=text",
        ),
        (
            {"x": X, "target": Y.astype(str)},
            {"task": "regression"},
            "target 'target' holds text, and values to predict are numbers",
        ),
        ({"x": X, "target": Y * 0}, {}, "has only the class 0"),
        ({"x": X, "target": np.arange(ROWS)}, {}, "40 classes|classes in 30 rows"),
        ({"x": X, "target": X[:, 0]}, {"task": "classification"}, "holds fractions"),
        ({"x": X, "target": X}, {"task": "classification"}, "one class for each row"),
        ({"x": X, "target": Y}, {"targets": ["target", "z"]}, "no target column 'z'"),
        (
            {"x": X, "a": Y, "b": X},
            {"targets": ["a", "b"]},
            "target 'b' must hold one number for each",
        ),
        ({"x": X, "a": Y, "b": Y.astype(str)}, {"targets": ["a", "b"]}, "must hold one number"),
        ({"x": X, "target": Y}, {"task": "multi-label"}, "a list with 1 for each label that is"),
        ({"x": X, "target": Y[:, None] * 1.0}, {"task": "multi-label"}, "a list with 1 for each"),
        ({"x": X, "target": FLAGS * 2}, {"task": "multi-label"}, "a list with 1 for each label"),
        (
            {"x": X, "target": FLAGS},
            {"task": "classification"},
            'model_config.task to "multi-label',
        ),
        ({"x": X, "a\nb": Y, "c": Y}, {"targets": ["a\nb", "c"]}, "cannot be a label"),
        ({"x": X[:8], "target": Y[:8]}, {}, "are too few; at least 10"),
        ({"x": X[:1], "target": Y[:1]}, {}, "too few"),
        ({"x": X, "i": X.reshape(-1, 3, 1), "target": Y}, {}, "which cannot be laid beside"),
        ({"a b": X, "target": Y}, {}, "the input column's name"),
        ({"x": X, "target": np.where(Y, "a\nb", "c")}, {}, "cannot be a label"),
    ],
)
def test_data_that_cannot_be_trained_on(store, columns, model, shown):
    store.add("d", {"train": columns})
    with pytest.raises((DatasetError, InvalidNameError), match=shown):
        examples(store, **model)


def test_ragged_rows(store):
    rows = [[1.0, 2.0]] * (ROWS - 1) + [[1.0]]
    pq.write_table(pa.table({"x": rows, "target": Y}), store.root / "d.parquet")
    with pytest.raises(DatasetError, match="column 'x' is ragged: its rows have sizes"):
        examples(store)


def test_missing_values(store):
    rows = [f"{i}.5,{i},{i % 2}" for i in range(ROWS)]
    (store.root / "d.csv").write_text("\n".join(["a,b,target", *rows, ",1,0", ",2,1"]))
    with pytest.raises(DatasetError, match=r"column 'a' has . missing value"):
        examples(store)


def test_columns_of_other_kinds(store):
    pq.write_table(pa.table({"x": [{"a": 1}] * ROWS, "target": Y}), store.root / "d.parquet")
    with pytest.raises(DatasetError, match=r"column 'x' holds struct.*: turn it into numbers, or"):
        examples(store)


@pytest.mark.parametrize("name", ["", "__index_level_0__", "Unnamed: 0", "Unnamed: 0.1"])
def test_row_numbers_of_pandas_are_not_learnt_from(store, name):
    store.add("d", {"train": {name: Y, "x": X, "target": Y}})
    with pytest.raises(DatasetError, match=f"column '{name}' has no name of its own.*index=False"):
        examples(store)
    assert examples(store, inputs=["x"]).columns == ("x",)
    if name:
        assert examples(store, inputs=["x", name]).columns == ("x", name)


def test_images_of_datasets_are_pixels_only_when_they_are_turned(store):
    """As docs/datasets.md shows."""
    pictures = [PIL.Image.new("RGB", (4, 5))] * ROWS
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    ds = datasets.Dataset.from_dict({"image": pictures, "label": Y}, features)
    ds.save_to_disk(store.root / "files")
    with pytest.raises(DatasetError, match="column 'image' holds images as `datasets` keeps them"):
        examples(store, "files")
    page = Path(__file__).parents[2] / "docs" / "datasets.md"
    recipe = re.search(r"```python\n(from datasets import .*?)```", page.read_text(), re.DOTALL)[1]
    exec(recipe, {"ds": ds, "FOLDER": store.root / "pixels"})  # noqa: S102
    assert examples(store, "pixels").input_shape == (3, 5, 4)


def test_validation_that_does_not_fit(store):
    good = {"x": X, "target": Y}
    store.add("shape", {"train": good, "validation": {"x": X[:, :2], "target": Y}})
    with pytest.raises(DatasetError, match=r"shape \[3\] in train and \[2\] in validation"):
        examples(store, "shape")
    store.add("classes", {"train": good, "validation": {"x": X, "target": Y + 5}})
    with pytest.raises(DatasetError, match=r"classes that train has not: 5, 6"):
        examples(store, "classes")


def save_named(store, train, validation):
    """A dataset whose splits name the classes 0 and 1 as is given."""
    splits = {
        name: datasets.Dataset.from_dict(
            {"x": X, "label": Y},
            datasets.Features(
                x=datasets.List(datasets.Value("float32")),
                label=datasets.ClassLabel(names=names) if names else datasets.Value("int64"),
            ),
        )
        for name, names in {"train": train, "validation": validation}.items()
    }
    datasets.DatasetDict(splits).save_to_disk(store.root / "d")


@pytest.mark.parametrize("other", [["b", "c"], ["b", "a", "c"], ["a", "c"]])
def test_splits_that_name_their_classes_differently(store, other):
    save_named(store, ["a", "b", "c"], other)
    with pytest.raises(DatasetError) as told:
        examples(store)
    assert f"{['a', 'b', 'c']} in train and {other} in validation" in str(told.value)


@pytest.mark.parametrize("strange", [-1, 2])
@pytest.mark.parametrize("place", [0, -1], ids=["train", "validation"])
def test_rows_without_a_class(store, strange, place):
    labels = [Y.copy(), Y.copy()]
    labels[place][:3] = strange
    feature = datasets.ClassLabel(names=["a", "b"])
    splits = {
        name: datasets.Dataset.from_dict({"x": X[:, 0], "label": found}).cast_column(
            "label", datasets.Value("int64")
        )
        for name, found in zip(("train", "validation"), labels, strict=True)
    }
    for split in splits.values():
        split.info.features["label"] = feature  # which `from_dict` checks
    datasets.DatasetDict(splits).save_to_disk(store.root / "d")
    with pytest.raises(DatasetError, match=r"has 3 rows without a class: .* its 2 names, as -1"):
        examples(store)


@pytest.mark.parametrize("other", [["a", "b"], ["a", "b", "c"], None])
@pytest.mark.parametrize("first", [["a", "b"], ["a", "b", "c"]])
def test_splits_that_name_their_classes_alike_or_not_at_all(store, first, other):
    """Also where one has no row of the last classes, and does not name them."""
    save_named(store, first, other)
    made = examples(store)
    assert made.labels == ("a", "b")
    assert (made.validation.targets == Y).all()


@pytest.mark.parametrize("kind", [int, bool, np.float32])
def test_a_column_of_lists_holds_several_labels(store, kind):
    store.add("d", {"train": {"x": X, "target": FLAGS.astype(kind)}})
    made = examples(store, task="multi-label")
    assert (made.task, made.labels, made.outputs) == ("multi-label", ("0", "1", "2"), 3)
    assert made.train.targets.dtype == np.float32
    assert set(map(tuple, made.train.targets)) == {(0, 1, 0), (1, 0, 1)}
    assert examples(store).task == ("regression" if kind is np.float32 else "multi-label")


@pytest.mark.parametrize("kind", [int, bool, np.uint8])
def test_lists_of_one_flag_are_two_classes(store, kind):
    store.add("d", {"train": {"x": X, "target": Y[:, None].astype(kind)}})
    made = examples(store)
    assert (made.task, made.outputs, made.train.targets.shape) == ("classification", 2, (30,))
    assert examples(store, task="regression").train.targets.shape == (30, 1)
    with pytest.raises(DatasetError, match="a list with 1 for each label"):
        examples(store, task="multi-label")


@pytest.mark.parametrize(("name", "target"), [("values", X[:, 0]), ("probabilities", Y)])
def test_an_input_that_is_called_what_the_output_is(store, name, target):
    store.add("d", {"train": {name: X, "target": target}})
    with pytest.raises(DatasetError, match=f"'{name}' has the name of the model's output; rename"):
        examples(store)
    store.add("beside", {"train": {name: X[:, 0], "z": X, "target": target}})
    assert examples(store, "beside").input_name == "features"


def test_several_columns_are_labels_by_their_names_or_values(store):
    store.add("d", {"train": {"x": X, "a": Y, "b": 1 - Y}})
    made = examples(store, targets=["b", "a"])
    assert (made.task, made.labels, made.columns) == ("multi-label", ("b", "a"), ("x",))
    store.add("v", {"train": {"x": X, "a": X[:, 0], "b": Y}})
    made = examples(store, "v", targets=["a", "b"])
    assert (made.task, made.labels, made.outputs) == ("regression", (), 2)


def test_validation_with_another_number_of_labels(store):
    splits = {"train": {"x": X, "y": FLAGS}, "validation": {"x": X, "y": FLAGS[:, :2]}}
    store.add("d", splits)
    with pytest.raises(DatasetError, match="another number of labels in validation"):
        examples(store)
