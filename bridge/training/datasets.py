"""Datasets by name, under one folder. No torch; `datasets` and pyarrow load with first use.

Enters: a dataset's id. Leaves: its train and validation rows. What may lie under the root:

    <id>/                   arrow: what `datasets`' save_to_disk wrote (so does `add`)
    <id>/train.parquet      and validation.parquet; or .csv, or .npz
    <id>.parquet            one file, split by seed; or .csv, or .npz

Where there is no validation split, rows are held back from train. A name never leads out of the
root, not even through a link.
"""

import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from bridge.errors import DatasetError, InvalidNameError
from bridge.names import check_name
from bridge.repository.disk import rename, sync, sync_tree
from bridge.tensors import Array

if TYPE_CHECKING:
    import datasets

ENDINGS = (".parquet", ".csv", ".npz")
_ARROW_FILES = ("dataset_dict.json", "dataset_info.json")
_VALIDATION = ("validation", "valid", "val")


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows to train on, and rows to judge by; no row is in both."""

    train: "datasets.Dataset"
    validation: "datasets.Dataset"


class DatasetStore:
    """Reads and adds datasets under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def ids(self) -> list[str]:
        """Names of all datasets, sorted."""
        if not self.root.is_dir():
            return []
        found = set()
        for entry in self.root.iterdir():
            name = entry.stem if entry.suffix in ENDINGS and entry.is_file() else entry.name
            try:
                self.path(name)
            except (DatasetError, InvalidNameError):
                continue  # not a dataset: a stray file, a folder of something else
            found.add(name)
        return sorted(found)

    def path(self, dataset_id: str) -> Path:
        """The folder or file of a dataset.

        Raises:
            InvalidNameError: the id is no name.
            DatasetError: there is no such dataset, or it lies outside the root.
        """
        check_name("dataset_id", dataset_id)
        places = [self.root / dataset_id]
        places += [self.root / f"{dataset_id}{ending}" for ending in ENDINGS]
        place = next((place for place in places if _is_dataset(place)), None)
        if place is None:
            raise DatasetError(
                f"there is no dataset {dataset_id!r} in {self.root}; `mlbridge datasets list` "
                f"shows what there is, `mlbridge datasets add` adds one"
            )
        inside = [place, *place.rglob("*")] if place.is_dir() else [place]
        root = self.root.resolve()
        for path in inside:
            if not path.resolve().is_relative_to(root):
                raise DatasetError(
                    f"dataset {dataset_id!r}: {path.name!r} is a link that leads out of "
                    f"{self.root}; copy the data instead"
                )
        return place

    def describe(self, dataset_id: str) -> dict[str, Any]:
        """What a dataset holds, as JSON can carry it.

        Returns:
            `dataset_id`, `layout` ("arrow", "parquet", "csv", "npz"), `splits` (name -> rows),
            `columns` (name -> `datatype` and the `shape` of one row), `size_bytes` on disk.

        Raises:
            DatasetError: it is missing or cannot be read.
        """
        place = self.path(dataset_id)
        splits = self._splits(dataset_id)
        files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
        return {
            "dataset_id": dataset_id,
            "layout": _layout(place),
            "splits": {name: len(rows) for name, rows in splits.items()},
            "columns": _tables().summary(next(iter(splits.values()))),
            "size_bytes": sum(file.stat().st_size for file in files),
        }

    def add(
        self, dataset_id: str, source: Path | Mapping[str, Mapping[str, Array]]
    ) -> dict[str, Any]:
        """Store a dataset as an arrow folder; it appears whole, under a name that was free.

        Args:
            dataset_id: its name from now on.
            source: a parquet, csv or npz file; or a folder in one of the layouts above; or for
                each split ("train", and perhaps "validation") a numpy array for each column,
                rows first.

        Returns:
            What `describe` says of it.

        Raises:
            DatasetError: the name is taken, or the source cannot be read or holds no rows.
        """
        check_name("dataset_id", dataset_id)
        taken = [self.root / f"{dataset_id}{ending}" for ending in ("", *ENDINGS)]
        if any(place.exists() for place in taken):
            raise self._taken(dataset_id)
        tables = _tables()
        if isinstance(source, Path):
            splits = _read_splits(source)
        else:
            splits = {name: tables.from_arrays(columns) for name, columns in source.items()}
        _check_splits(dataset_id, splits)
        staging = self.root / f".add-{uuid.uuid4().hex[:12]}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            tables.save_arrow(splits, staging)
            sync_tree(staging)
            if not rename(staging, self.root / dataset_id):
                raise self._taken(dataset_id)
            sync(self.root)
        except OSError as error:
            raise DatasetError(f"cannot write dataset {dataset_id!r}: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return self.describe(dataset_id)

    def load(
        self,
        dataset_id: str,
        *,
        seed: int,
        validation_fraction: float,
        classes: Callable[["datasets.Dataset"], Array | None] = lambda _: None,
    ) -> Splits:
        """Open a dataset for training.

        Args:
            dataset_id: its name.
            seed: of the split, where the dataset has no validation rows of its own.
            validation_fraction: share of the rows that such a split holds back.
            classes: gives the class of each row, whose shares such a split keeps; or None.

        Raises:
            DatasetError: it is missing, unreadable or empty, or its splits differ in columns.
        """
        splits = self._splits(dataset_id)
        train = splits["train"] if "train" in splits else next(iter(splits.values()))
        held = next((splits[name] for name in _VALIDATION if name in splits), None)
        if held is not None:
            return Splits(train, held)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(train))
        count = max(1, round(len(train) * validation_fraction))
        if len(train) <= count:
            raise DatasetError(
                f"dataset {dataset_id!r} has {len(train)} rows, too few to hold any back"
            )
        held_back = _spread(order, count, classes(train), rng)
        kept = order[~np.isin(order, held_back)]
        # In memory, as `datasets` would write the order beside the data.
        return Splits(
            train.select(kept, keep_in_memory=True),
            train.select(held_back, keep_in_memory=True),
        )

    def _splits(self, dataset_id: str) -> "dict[str, datasets.Dataset]":
        splits = _read_splits(self.path(dataset_id))
        _check_splits(dataset_id, splits)
        return splits

    def _taken(self, dataset_id: str) -> DatasetError:
        return DatasetError(
            f"a dataset {dataset_id!r} exists already in {self.root}; choose another name, or "
            f"remove it first"
        )


def _spread(order: Array, count: int, classes: Array | None, rng: np.random.Generator) -> Array:
    """`count` of the row numbers in `order`, each class in its share, and none of them whole."""
    if classes is None or classes.ndim > 1:
        return order[:count]
    by_class = order[np.argsort(classes[order], kind="stable")]
    sorted_classes = classes[by_class]
    second = np.append(False, sorted_classes[1:] == sorted_classes[:-1])
    spare = by_class[second]  # the first row of each class stays: train must know every class
    if len(spare) < count:
        return order[:count]
    picked: Array = spare[((np.arange(count) + 0.5) * len(spare) / count).astype(int)]
    return rng.permutation(picked)


def _tables() -> ModuleType:
    # Late, as the command line and the workers import this module without the `train` extra.
    try:
        from bridge.training import tables  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"{error.name} is not installed: pip install 'taskiq-triton-bridge[train]'"
        ) from error
    return tables


def _is_dataset(place: Path) -> bool:
    return place.is_file() if place.suffix in ENDINGS else bool(place.is_dir() and _files(place))


def _files(folder: Path) -> list[Path]:
    """The files that make a folder a dataset; none if it is something else."""
    arrow = [folder / name for name in _ARROW_FILES if (folder / name).is_file()]
    return arrow or sorted(path for path in folder.iterdir() if path.suffix in ENDINGS)


def _layout(place: Path) -> str:
    file = place if place.is_file() else _files(place)[0]
    return "arrow" if file.name in _ARROW_FILES else file.suffix[1:]


def _read_splits(place: Path) -> "dict[str, datasets.Dataset]":
    tables = _tables()
    if place.is_file() and place.suffix in ENDINGS:
        return {"train": tables.read_file(place)}
    files = _files(place) if place.is_dir() else []
    if not files:
        raise DatasetError(
            f"{place} is neither a .parquet, .csv or .npz file, nor a folder of train.parquet "
            f"(.csv, .npz), nor one that `datasets` saved"
        )
    if files[0].name in _ARROW_FILES:
        opened: dict[str, datasets.Dataset] = tables.open_arrow(place)
        return opened
    if len({file.stem for file in files}) < len(files):
        raise DatasetError(f"{place.name!r} holds one split twice: {[f.name for f in files]}")
    return {file.stem: tables.read_file(file) for file in files}


def _check_splits(dataset_id: str, splits: "dict[str, datasets.Dataset]") -> None:
    if len(splits) != 1 and "train" not in splits:
        raise DatasetError(
            f"dataset {dataset_id!r} has splits {sorted(splits)}, but none is called 'train'"
        )
    columns = None
    for name, rows in splits.items():
        if not rows.column_names or not len(rows):
            raise DatasetError(f"dataset {dataset_id!r} is empty: split {name!r} has no rows")
        if columns is not None and set(rows.column_names) != columns:
            raise DatasetError(
                f"dataset {dataset_id!r}: split {name!r} has columns {sorted(rows.column_names)}, "
                f"another has {sorted(columns)}"
            )
        columns = set(rows.column_names)
