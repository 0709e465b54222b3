"""`validate`: what a training would find, told before it."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from bridge.cli.app import app
from bridge.training.datasets import DatasetStore
from bridge.training.opening import validate
from bridge.training.request import Hyperparameters, ModelConfig

ROWS = 40
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
Y = np.where(np.arange(ROWS) % 4 == 0, "rare", "common")


@pytest.fixture
def store(tmp_path):
    (tmp_path / "root").mkdir()
    return DatasetStore(tmp_path / "root")


def report_of(store, **model):
    return validate(store, "d", ModelConfig(architecture="mlp", **model), Hyperparameters())


def run(store, *arguments):
    return CliRunner().invoke(
        app,
        ["datasets", "validate", *arguments],
        env={"DATASET_ROOT": str(store.root), "COLUMNS": "160"},
    )


def test_a_good_dataset(store):
    store.add("d", {"train": {"x": X, "target": Y}})
    report = report_of(store)
    assert report["usable"]
    assert report["problems"] == []
    assert report["dataset_hash"] == store.fingerprint("d")
    assert report["columns"] == {
        "x": {
            "datatype": "float",
            "shape": [3],
            "missing": 0,
            "not_finite": 0,
            "ragged": False,
            "classes": None,
        },
        "target": {
            "datatype": "string",
            "shape": [],
            "missing": 0,
            "not_finite": 0,
            "ragged": False,
            "classes": {"common": 30, "rare": 10},
        },
    }
    assert (report["task"], report["target"], report["inputs"]) == (
        "classification",
        "target",
        ["x"],
    )
    assert report["labels"] == ["common", "rare"]
    assert report["input_shape"] == [3]
    assert report["rows"] == {"train": 32, "validation": 8}


def test_every_bad_column_is_told(store):
    bad = pa.array([None, *[1.0] * (ROWS - 1)])
    nan = np.where(np.arange(ROWS) == 3, np.nan, 1.0)
    ragged = [[1.0, 2.0]] * (ROWS - 1) + [[1.0]]
    pq.write_table(
        pa.table({"a": bad, "b": nan, "c": ragged, "target": Y}), store.root / "d.parquet"
    )
    report = report_of(store)
    assert not report["usable"]
    assert "column 'a' has 1 missing values" in report["problems"][0]
    assert report["problems"][1:] == [
        "column 'b' has 1 values that are NaN or infinite",
        "column 'c' is ragged: its rows differ in shape",
    ]
    assert report["columns"]["c"]["ragged"]
    assert report["columns"]["a"]["missing"] == 1
    # Columns that are not asked for may be as they like.
    assert len(report_of(store, input="b")["problems"]) == 1


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        ({"x": X, "y": Y, "label": Y}, "cannot tell which column is the target"),
        ({"x": X, "target": np.full(ROWS, "same")}, "has only the class 'same'"),
        ({"x": X[:5], "target": Y[:5]}, "are too few"),
        ({"a b": X, "target": Y}, "the input column's name"),
    ],
)
def test_the_problem_is_what_a_training_would_say(store, columns, shown):
    store.add("d", {"train": columns})
    [problem] = report_of(store)["problems"]
    assert shown in problem


def test_what_cannot_be_read_at_all(store):
    (store.root / "d.parquet").write_bytes(b"not parquet")
    report = report_of(store)
    assert not report["usable"]
    assert "cannot read d.parquet as parquet" in report["problems"][0]


def test_numbers_of_many_values_are_not_told_one_by_one(store):
    store.add("d", {"train": {"x": np.arange(2000), "target": np.arange(2000) % 2}})
    columns = report_of(store)["columns"]
    assert columns["x"]["classes"] is None
    assert columns["target"]["classes"] == {"0": 1000, "1": 1000}


# ---- the command ------------------------------------------------------------------------


def test_the_command_says_what_is_there(store):
    store.add("d", {"train": {"x": X, "kind": Y}})
    result = run(store, "d", "--target", "kind", "--input", "x")
    assert result.exit_code == 0, result.output
    assert "common 30, rare 10" in result.output
    assert "usable: classification of 'kind' from rows of shape [3]" in result.output
    report = json.loads(run(store, "d", "--target", "kind", "--json").stdout)
    assert report["usable"]
    assert report["dataset_hash"] == store.fingerprint("d")


def test_the_command_takes_text_for_a_transformer(store):
    words = np.array(["A great film", "Boring"] * (ROWS // 2))
    store.add("d", {"train": {"text": words, "label": Y}})
    result = run(store, "d", "--input", "text")
    assert result.exit_code == 1
    assert "problem: dataset 'd': column 'text' holds text, not numbers" in result.output
    assert "--architecture transformer -c input=text" in result.output
    result = run(store, "d", "--architecture", "transformer", "--input", "text")
    assert result.exit_code == 0, result.output
    assert "usable: classification of 'label' from text: 3 words of each, a voc" in result.output
    report = json.loads(run(store, "d", "--architecture", "transformer", "--json").stdout)
    assert report["words"] == {"vocabulary": 6, "length": 3, "text": True}


def test_the_command_takes_several_targets(store):
    flags = {"comedy": np.arange(ROWS) % 2, "drama": np.arange(ROWS) % 3 == 0}
    store.add("d", {"train": {"x": X, **flags}})
    chosen = ("--targets", "comedy", "--targets", "drama")
    report = json.loads(run(store, "d", *chosen, "--json").stdout)
    assert (report["task"], report["labels"]) == ("multi-label", ["comedy", "drama"])
    assert report["inputs"] == ["x"]
    assert run(store, "d", *chosen, "--task", "multi-label").exit_code == 0
    wrong = run(store, "d", *chosen, "--target", "x")
    assert "'target' and 'targets' say the same" in str(wrong.exception)


def test_an_architecture_that_is_not_installed(store):
    store.add("d", {"train": {"x": X, "target": Y}})
    wrong = run(store, "d", "--architecture", "resnet")
    assert "none is called 'resnet'" in str(wrong.exception)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"x": X, "label": Y}, "--architecture mlp"),
        ({"a": X[:, 0], "b": X[:, 1], "kind": Y}, "--architecture mlp -c target=COLUMN"),
        ({"text": Y, "label": Y}, "--architecture transformer -c input=text"),
        ({"my text": Y, "y": X[:, 0]}, "--architecture transformer -c input='my text'"),
        ({"text": Y, "mood": Y}, "--architecture transformer -c target=COLUMN -c input=COLUMN"),
        ({"image": np.zeros((ROWS, 8, 8)), "target": Y}, "--architecture cnn"),
        ({"image": np.zeros((ROWS, 3, 8, 8)), "target": Y}, "--architecture cnn"),
        ({"signal": np.zeros((ROWS, 8, 2)), "target": Y}, "--architecture transformer"),
        ({"image": np.zeros((ROWS, 32, 32, 3)), "target": Y}, "--architecture mlp"),
    ],
)
def test_add_names_a_command_that_trains(store, columns, told):
    store.add("d", {"train": columns})
    environment = {"DATASET_ROOT": str(store.root), "COLUMNS": "160"}
    result = CliRunner().invoke(app, ["datasets", "show", "d"], env=environment)
    assert f"Train on it:  mlbridge train d {told}\n" in result.stdout


def test_the_command_fails_where_a_training_would(store):
    store.add("d", {"train": {"x": X, "kind": Y}})
    result = run(store, "d")
    assert result.exit_code == 1
    assert "problem: dataset 'd': cannot tell which column is the target" in result.output
    report = json.loads(run(store, "d", "--target", "x", "--json").stdout)
    assert not report["usable"]


def test_list_shows_the_good_beside_the_bad(store):
    store.add("good", {"train": {"x": X, "target": Y}})
    (store.root / "bad.csv").write_text("a,b\n1\n")
    environment = {"DATASET_ROOT": str(store.root), "COLUMNS": "200"}
    result = CliRunner().invoke(app, ["datasets", "list", "--json"], env=environment)
    bad, good = json.loads(result.stdout)
    assert "cannot read bad.csv as csv" in bad["problem"]
    assert good["dataset_hash"] == store.fingerprint("good")
    table = CliRunner().invoke(app, ["datasets", "list"], env=environment).stdout
    assert good["dataset_hash"][:19] in table
    shown = CliRunner().invoke(app, ["datasets", "show", "good"], env=environment).stdout
    assert good["dataset_hash"] in shown


def test_an_empty_store_says_so(store):
    environment = {"DATASET_ROOT": str(store.root), "COLUMNS": "200"}
    told = CliRunner().invoke(app, ["datasets", "list"], env=environment).stdout
    assert told.startswith(f"no datasets in {store.root} (DATASET_ROOT); ")
    assert CliRunner().invoke(app, ["datasets", "list", "--json"], env=environment).stdout == "[]\n"


def test_no_torch_is_needed(store):
    store.add("d", {"train": {"x": X, "target": Y}})
    program = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['lightning'] = None\n"
        "from bridge.cli.app import app\n"
        "app(['datasets', 'validate', 'd'])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"DATASET_ROOT": str(store.root), "PATH": ""},
    )
    assert ran.returncode == 0, ran.stderr
    assert "usable" in ran.stdout
