"""What a dataset looks like on disk: its files, and which layout they make. Paths only; no rows.

Enters: a root folder and a dataset's id. Leaves: the file or folder that is the dataset, and the
files in it. Hidden files (`.name`) are no data. A link is followed where it stays inside the root,
and refused where it leads out.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from bridge.errors import DatasetError
from bridge.names import check_name

ENDINGS = (".parquet", ".csv", ".npz")
"""Of tables; one file holds one split."""

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Of images, in small or large letters; each lies in a folder that is called as its class."""

_CACHED = "cache-"

ARROW_FILES = ("dataset_dict.json", "dataset_info.json")
"""One of them lies in what `datasets` saved."""


def find_place(root: Path, dataset_id: str) -> Path:
    """The folder or file of a dataset.

    Raises:
        InvalidNameError: the id is no name.
        DatasetError: there is no such dataset, or something in it lies outside the root.
    """
    check_name("dataset_id", dataset_id)
    places = [root / dataset_id]
    places += [root / f"{dataset_id}{ending}" for ending in ENDINGS]
    place = next((place for place in places if _is_dataset(place)), None)
    if place is None:
        raise DatasetError(
            f"there is no dataset {dataset_id!r} in {root}; `mlbridge datasets list` "
            f"shows what there is, `mlbridge datasets add` adds one"
        )
    try:
        _check_inside(place, root.resolve())
        for _ in walk(place, root):
            pass
    except DatasetError as error:
        raise DatasetError(f"dataset {dataset_id!r}: {error}") from error
    return place


def layout_of(place: Path) -> str | None:
    """Say "arrow", "parquet", "csv", "npz" or "images"; None if it is nothing of these."""
    if place.is_file():
        return place.suffix[1:] if place.suffix in ENDINGS else None
    if not place.is_dir():
        return None
    if any((place / name).is_file() for name in ARROW_FILES):
        return "arrow"
    tables = table_files(place)
    if tables:
        return tables[0].suffix[1:]
    return "images" if image_splits(place) else None


def table_files(folder: Path) -> list[Path]:
    """The files of a folder that hold one split each, sorted."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in ENDINGS and not path.name.startswith(".")
    )


def image_splits(folder: Path) -> dict[str, Path]:
    """By split, the folder that holds a folder of images for each class; none if there is none."""
    if _has_classes(folder / "train"):
        return {path.name: path for path in _folders(folder)}
    return {"train": folder} if _has_classes(folder) else {}


def content_files(place: Path, root: Path) -> dict[str, Path]:
    """Every file of a dataset by the name that it has wherever the dataset lies.

    A single file is called as in a folder, `train` and its ending. What `datasets` caches beside
    its data (`cache-*`) is left out.
    """
    if place.is_file():
        return {f"train{place.suffix}": place}
    return {
        path.relative_to(place).as_posix(): path
        for path in walk(place, root)
        if not path.name.startswith(_CACHED)
    }


def is_content(name: object) -> bool:
    """Whether something named in a dataset's own files is, if it is there, beside them and counts.

    It is no path, and no address, which has a colon.
    """
    if not isinstance(name, str) or not name or set(name) & set("/\\:\0"):
        return False
    return not name.startswith((".", _CACHED))


def walk(place: Path, root: Path) -> Iterator[Path]:
    """Every file in a folder that is not hidden, sorted by path; or the one file that it is.

    Raises:
        DatasetError: a link leads out of the root, or into a folder that it lies in.
    """
    if place.is_file():
        yield place
    else:
        yield from _walk(place, root.resolve(), ())


def _walk(folder: Path, root: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        raise DatasetError(f"{folder.name!r} is a link to a folder that it lies in; remove it")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        path = Path(entry.path)
        if entry.is_symlink():
            _check_inside(path, root)
        if entry.is_dir():
            yield from _walk(path, root, (*above, here))
        elif entry.is_file():
            yield path


def _check_inside(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root):
        raise DatasetError(
            f"{path.name!r} is a link that leads out of {root}; copy the data instead"
        )


def _has_classes(folder: Path) -> bool:
    return any(
        path.suffix.lower() in IMAGE_ENDINGS for one in _folders(folder) for path in one.iterdir()
    )


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _is_dataset(place: Path) -> bool:
    if place.suffix in ENDINGS and place.is_file():
        return True
    return place.is_dir() and layout_of(place) is not None
