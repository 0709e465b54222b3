"""Folders of images, laid by hand or added, good ones and each kind of bad one."""

import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bridge.cli.app import app
from bridge.errors import DatasetError
from bridge.training.datasets import DatasetStore
from bridge.training.opening import open_examples, validate
from bridge.training.request import Hyperparameters, ModelConfig

CLASSES = ("cat", "dog")
COUNT = 12  # of each class
RANDOM = np.random.default_rng(0)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "root").mkdir()
    return DatasetStore(tmp_path / "root")


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def lay(folder, *, classes=CLASSES, count=COUNT, shape=(6, 5, 3), ending="png", kind=np.uint8):
    """Pixels by class and file name."""
    made = {}
    for name in classes:
        for number in range(count):
            made[name, number] = RANDOM.integers(0, 250, shape).astype(kind)
            save(folder / name / f"{number:03}.{ending}", made[name, number])
    return made


def examples(store, dataset_id="d", **model):
    config = ModelConfig(architecture="cnn", **model)
    return open_examples(store, dataset_id, config, Hyperparameters())


def rows_by_label(made):
    """(label, bytes of the row) of both splits."""
    return {
        (made.labels[target], row.tobytes())
        for rows in (made.train, made.validation)
        for row, target in zip(rows.inputs, rows.targets, strict=True)
    }


@pytest.mark.parametrize("added", [False, True], ids=["by hand", "added"])
@pytest.mark.parametrize("below", [".", "train"])
def test_classes_are_folders(store, tmp_path, added, below):
    folder = tmp_path / "pictures" if added else store.root / "d"
    pixels = lay(folder / below)
    (folder / below / "README.txt").write_text("a note")
    if added:
        store.add("d", folder)
    described = store.describe("d")
    assert described["layout"] == ("arrow" if added else "images")
    assert described["splits"] == {"train": 2 * COUNT}
    assert described["columns"]["image"] == {"datatype": "uint8", "shape": [3, 6, 5]}
    assert store.ids() == ["d"]
    made = examples(store)
    assert made.labels == CLASSES
    assert (made.input_name, made.input_shape, made.target) == ("image", (3, 6, 5), "label")
    assert made.train.inputs.dtype == np.float32
    assert rows_by_label(made) == {
        (name, np.moveaxis(image, 2, 0).astype(np.float32).tobytes())
        for (name, _), image in pixels.items()
    }


def test_a_validation_folder_is_the_validation_split(store):
    lay(store.root / "d" / "train")
    lay(store.root / "d" / "validation", count=3)
    made = examples(store)
    assert (len(made.train.inputs), len(made.validation.inputs)) == (2 * COUNT, 6)
    lay(store.root / "d" / "validation", classes=["fox"], count=1)
    with pytest.raises(DatasetError, match="classes that train has not: 'fox'"):
        examples(store)


def test_train_may_be_the_name_of_a_class(store):
    lay(store.root / "d", classes=["car", "train"])
    assert examples(store).labels == ("car", "train")


@pytest.mark.parametrize(
    ("shape", "kind", "ending", "row", "datatype"),
    [
        ((6, 5), np.uint8, "png", (6, 5), "uint8"),
        ((6, 5), np.uint16, "png", (6, 5), "uint16"),
        ((6, 5), np.uint8, "jpg", (6, 5), "uint8"),
        ((6, 5, 2), np.uint8, "png", (6, 5), "uint8"),
        ((6, 5, 4), np.uint8, "png", (3, 6, 5), "uint8"),
        ((6, 5, 3), np.uint8, "JPEG", (3, 6, 5), "uint8"),
        ((6, 5, 3), np.uint8, "bmp", (3, 6, 5), "uint8"),
        ((6, 5, 3), np.uint8, "webp", (3, 6, 5), "uint8"),
    ],
)
def test_grey_and_colour(store, shape, kind, ending, row, datatype):
    lay(store.root / "d", shape=shape, kind=kind, ending=ending)
    assert examples(store).input_shape == row
    assert store.describe("d")["columns"]["image"]["datatype"] == datatype


def test_sixteen_bits_keep_their_values(store):
    lay(store.root / "d", shape=(4, 4), kind=np.uint16)
    save(store.root / "d" / "cat" / "000.png", np.full((4, 4), 40_000, np.uint16))
    assert (examples(store).train.inputs.max() == 40_000) or (
        examples(store).validation.inputs.max() == 40_000
    )
    save(store.root / "d" / "cat" / "001.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DatasetError, match=r"'cat/000.png' has 16 bits .* 'cat/001.png' has 8"):
        examples(store)


def test_one_colour_image_makes_all_of_them_colour(store):
    lay(store.root / "d", shape=(6, 5))
    save(store.root / "d" / "cat" / "000.png", RANDOM.integers(0, 250, (6, 5, 3)).astype(np.uint8))
    assert examples(store).input_shape == (3, 6, 5)


def test_an_image_that_lies_on_its_side_is_turned(store):
    lay(store.root / "d", shape=(6, 5, 3), ending="jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(store.root / "d" / "cat" / "000.jpg", np.zeros((5, 6, 3), np.uint8), exif=exif)
    assert examples(store).input_shape == (3, 6, 5)


def test_ragged_images_are_told_and_can_be_resized(store, tmp_path):
    lay(tmp_path / "d")
    save(tmp_path / "d" / "dog" / "odd.png", np.zeros((9, 7, 3), np.uint8))
    with pytest.raises(DatasetError) as told:
        store.add("d", tmp_path / "d")
    for part in ("5x6 (24 files", "7x9 (1 files, such as 'dog/odd.png')", "--size 5x6"):
        assert part in str(told.value)
    assert list(store.root.iterdir()) == []
    store.add("d", tmp_path / "d", image_size=(8, 4))
    made = examples(store)
    assert made.input_shape == (3, 4, 8)
    assert len(made.train.inputs) + len(made.validation.inputs) == 2 * COUNT + 1


def test_what_is_no_image_cannot_be_resized(store):
    np.savez(store.root.parent / "x.npz", x=np.arange(3))
    with pytest.raises(DatasetError, match="is no folder of images"):
        store.add("d", store.root.parent / "x.npz", image_size=(8, 4))


def test_a_broken_image_is_named(store):
    lay(store.root / "d")
    whole = (store.root / "d" / "cat" / "001.png").read_bytes()
    for content in (b"", b"no image", whole[:-30]):
        (store.root / "d" / "cat" / "001.png").write_bytes(content)
        with pytest.raises(DatasetError, match=r"cannot read image 'cat/001.png': .*; mend it"):
            examples(store)
        assert not validate(store, "d", ModelConfig(architecture="cnn"), Hyperparameters())[
            "usable"
        ]


def png(width, height):
    """A PNG file that says it is so large, and holds next to nothing."""

    def chunk(kind, content):
        checked = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checked)

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 100_000])
def test_a_decompression_bomb_is_not_unpacked(store, side):
    lay(store.root / "d")
    (store.root / "d" / "cat" / "bomb.png").write_bytes(png(side, side))
    with pytest.raises(DatasetError, match=r"'cat/bomb.png' has more than [\d,]+ pixels"):
        examples(store)


def test_other_formats_are_not_read_under_a_borrowed_name(store):
    lay(store.root / "d")
    (store.root / "d" / "cat" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(DatasetError, match=r"cannot read image 'cat/x.png'"):
        examples(store)


def test_no_link_is_followed_out_of_the_root(store, tmp_path):
    lay(tmp_path / "outside")
    lay(store.root / "file")
    (store.root / "file" / "cat" / "link.png").symlink_to(tmp_path / "outside" / "cat" / "000.png")
    lay(store.root / "folder")
    (store.root / "folder" / "fox").symlink_to(tmp_path / "outside" / "cat")
    lay(store.root / "through")
    (store.root / "through" / "fox").symlink_to(store.root / "hop")
    (store.root / "hop").mkdir()
    (store.root / "hop" / "x.png").symlink_to(tmp_path / "outside" / "cat" / "000.png")
    lay(store.root / "loop")
    (store.root / "loop" / "cat" / "again").symlink_to(store.root / "loop")
    for name in ("file", "folder", "through"):
        with pytest.raises(DatasetError, match="is a link that leads out of"):
            examples(store, name)
    with pytest.raises(DatasetError, match="is a link to a folder that it lies in"):
        examples(store, "loop")
    # Nor when it is added: its own folder is then the root.
    with pytest.raises(DatasetError, match="is a link that leads out of"):
        store.add("d", store.root / "file")


def test_files_in_the_wrong_place_are_named(store):
    lay(store.root / "d")
    (store.root / "d" / "cat" / "notes.txt").write_text("hello")
    with pytest.raises(DatasetError, match=r"'cat/notes.txt' is no image in the folder of a class"):
        examples(store)
    (store.root / "d" / "cat" / "notes.txt").unlink()
    save(store.root / "d" / "stray.png", np.zeros((6, 5, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"'stray.png' is no image in the folder of a class"):
        examples(store)
    (store.root / "d" / "stray.png").unlink()
    (store.root / "d" / "fox").mkdir()
    with pytest.raises(DatasetError, match="'fox' of a class holds no images"):
        examples(store)
    (store.root / "d" / "fox").rmdir()
    (store.root / "d" / "cat" / ".hidden").write_text("not looked at")
    assert examples(store).labels == CLASSES
    (store.root / "d" / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="holds tables and folders of images"):
        examples(store)


def test_one_class_only(store):
    lay(store.root / "d", classes=["cat"])
    with pytest.raises(DatasetError, match="has only the class 'cat' in train"):
        examples(store)


def test_images_that_do_not_fit_into_memory(store, monkeypatch):
    lay(store.root / "d")
    monkeypatch.setattr("bridge.training.room.free_memory", lambda: 2000)
    with pytest.raises(
        DatasetError, match=r"dataset 'd': it takes about 2\.\d kB of memory.* `mlbridge"
    ):
        examples(store)
    store.add("e", store.root / "d")
    assert len(examples(store, "e").train.inputs) == 2 * COUNT - 5


def test_the_command_resizes(store, tmp_path):
    lay(tmp_path / "d")
    save(tmp_path / "d" / "dog" / "odd.png", np.zeros((9, 7, 3), np.uint8))

    def add(*options):
        command = ["datasets", "add", "d", str(tmp_path / "d"), *options]
        return CliRunner().invoke(app, command, env={"DATASET_ROOT": str(store.root)})

    assert isinstance(add().exception, DatasetError)
    for wrong in ("8", "8x", "0x4", "8x99999"):
        assert add("--size", wrong).exit_code == 2
    shown = json.loads(add("--size", "8x4", "--json").stdout)
    assert shown["columns"]["image"]["shape"] == [3, 4, 8]
    assert (
        "--architecture cnn"
        in CliRunner()
        .invoke(app, ["datasets", "show", "d"], env={"DATASET_ROOT": str(store.root)})
        .stdout
    )
