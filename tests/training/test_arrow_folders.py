"""Folders that `datasets` saved name their files themselves: none of another place is opened."""

import json

import numpy as np
import pytest

from bridge.errors import DatasetError
from bridge.training.datasets import DatasetStore

ROWS = {"x": np.ones((40, 3), np.float32), "target": np.arange(40) % 2}
STRANGE = ["../secret/train", "/etc/passwd", "..", "", ".hidden", "cache-1", "a::b", "a\\b", 3]


@pytest.fixture
def store(tmp_path):
    (tmp_path / "root").mkdir()
    store = DatasetStore(tmp_path / "root")
    store.add("secret", {"train": ROWS})
    store.add("d", {"train": ROWS})
    return store


@pytest.fixture(params=["train/state.json", "dataset_dict.json"])
def rewrite(store, request):
    """Has a file name another one; returns the file's name."""

    def rewrite(name):
        file = store.root / "d" / request.param
        content = json.loads(file.read_text())
        if "splits" in content:
            content["splits"].append(name)
        else:
            content["_data_files"][0]["filename"] = name
        file.write_text(json.dumps(content))
        return file.name

    return rewrite


@pytest.mark.parametrize("name", STRANGE)
def test_what_they_name_is_beside_them(store, rewrite, name):
    shown = rewrite(name)
    with pytest.raises(DatasetError, match=rf"{shown} of the arrow folder .* names .*beside it"):
        store.load("d", seed=0, validation_fraction=0.2)


def test_one_split_alone(store):
    (store.root / "d" / "dataset_dict.json").unlink()
    (store.root / "d" / "train").rename(store.root / "one")
    assert store.load("one", seed=0, validation_fraction=0.2)
    state = store.root / "one" / "state.json"
    state.write_text(state.read_text().replace('"data-', '"../secret/train/data-'))
    with pytest.raises(DatasetError, match=r"state.json of the arrow folder 'one' names '\.\./sec"):
        store.load("one", seed=0, validation_fraction=0.2)


@pytest.mark.parametrize("content", ["[]", "{}", '{"_data_files": 3}', '{"_data_files": [3]}', "{"])
def test_damaged_states(store, content):
    (store.root / "d" / "train" / "state.json").write_text(content)
    with pytest.raises(DatasetError, match="cannot read the arrow folder 'd'"):
        store.load("d", seed=0, validation_fraction=0.2)
