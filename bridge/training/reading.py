"""From a place on disk, in any layout, or from arrays, to the `Source` of each split.

Enters: a file, a folder or arrays. Leaves: sources, checked to be a dataset: there is a split to
train on, none is empty, and all have the same columns.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridge.errors import DatasetError
from bridge.tensors import Array
from bridge.training import tables
from bridge.training.files import open_sources
from bridge.training.images import Size, image_sources
from bridge.training.layouts import layout_of
from bridge.training.sources import Source, from_arrays


def open_place(place: Path, root: Path, image_size: Size | None = None) -> dict[str, Source]:
    """The splits of a dataset on disk.

    Args:
        place: a file or folder in one of the layouts that `datasets` tells.
        root: no link from within a folder of images is followed out of it.
        image_size: to which images are resized.

    Raises:
        DatasetError: it is in none of the layouts, or cannot be read.
    """
    if layout_of(place) == "images":
        return image_sources(place, root, image_size)
    if image_size is not None:
        raise DatasetError(f"{place} is no folder of images, which alone can be resized")
    return open_sources(place)


def of_arrays(splits: Mapping[str, Mapping[str, Array]]) -> dict[str, Source]:
    """As `open_place`, of numpy arrays: split -> column -> rows."""
    return {name: from_arrays(columns) for name, columns in splits.items()}


def describe(sources: Mapping[str, Source]) -> dict[str, Any]:
    """Rows of each split, and for each column its `datatype` and the `shape` of its first row."""
    return {
        "splits": {name: source.rows for name, source in sources.items()},
        "columns": tables.summary(next(iter(sources.values())).first()),
    }


def check(dataset_id: str, sources: Mapping[str, Source]) -> None:
    """The splits must make a dataset.

    Raises:
        DatasetError: none is for training, one is empty, or they differ in columns.
    """
    if len(sources) != 1 and "train" not in sources:
        raise DatasetError(
            f"dataset {dataset_id!r} has splits {sorted(sources)}, but none is called 'train'"
        )
    columns = None
    for name, source in sources.items():
        if not source.features or not source.rows:
            raise DatasetError(f"dataset {dataset_id!r} is empty: split {name!r} has no rows")
        if columns is not None and set(source.features) != columns:
            raise DatasetError(
                f"dataset {dataset_id!r}: split {name!r} has columns {sorted(source.features)}, "
                f"another has {sorted(columns)}"
            )
        columns = set(source.features)
