"""Datasets as the real training process meets them."""

import numpy as np
import pytest
from PIL import Image

from bridge.errors import DatasetError
from bridge.settings import Settings
from bridge.training.datasets import DatasetStore
from bridge.training.process import Listeners, Piece, train_in_process
from bridge.training.request import parse_request


async def train(root, folder, dataset, architecture):
    request = parse_request(
        dataset, {"architecture": architecture}, {"epochs": 1}, Settings(dataset_root=root)
    )
    folder.mkdir()

    async def ignore(*_):
        pass

    listeners = Listeners(lambda _: None, ignore, ignore)
    return await train_in_process(request, folder, root, Piece(), listeners)


async def test_a_folder_of_images_is_trained_on(tmp_path):
    rng = np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 150)):
        folder = tmp_path / "root" / "pictures" / "train" / name
        folder.mkdir(parents=True)
        for number in range(30):
            pixels = (rng.integers(0, 100, (8, 8, 3)) + level).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    outcome = await train(tmp_path / "root", tmp_path / "work", "pictures", "cnn")
    assert outcome.plan.signature.labels == ("dark", "light")
    assert outcome.plan.signature.inputs[0].shape == (-1, 3, 8, 8)
    assert outcome.result["dataset_hash"] == DatasetStore(tmp_path / "root").fingerprint("pictures")


async def test_data_that_were_changed_after_they_were_added(tmp_path):
    store = DatasetStore(tmp_path / "root")
    arrays = {"x": np.random.default_rng(0).normal(size=(40, 3)), "target": np.arange(40) % 2}
    store.add("d", {"train": arrays})
    file = next(store.root.glob("d/train/*.arrow"))
    file.write_bytes(file.read_bytes().replace(arrays["x"][3].tobytes(), bytes(24)))
    with pytest.raises(DatasetError, match="dataset 'd': it is not what was added"):
        await train(store.root, tmp_path / "work", "d", "mlp")
