"""Datasets by name, under one folder. No torch; `datasets` and pyarrow load with first use.

Enters: a dataset's id. Leaves: its train and validation rows. What may lie under the root:

    <id>/                   arrow: what `datasets`' save_to_disk wrote (so does `add`)
    <id>/train.parquet      and validation.parquet; or .csv, or .npz
    <id>/train/<class>/     images, and validation/<class>/; or <id>/<class>/ alone
    <id>.parquet            one file, split by seed; or .csv, or .npz

Where there is no validation split, rows are held back from train. A name never leads out of the
root, not even through a link.
"""

import importlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bridge.errors import DatasetError, InvalidNameError
from bridge.names import check_name
from bridge.repository.disk import rename, sync, sync_tree
from bridge.tensors import Array
from bridge.training.fingerprints import (
    Notes,
    content_hash,
    recorded_hash,
    stamp_of,
    write_record,
)
from bridge.training.layouts import ENDINGS, content_files, find_place, layout_of
from bridge.training.splitting import split_rows

if TYPE_CHECKING:
    import datasets

    from bridge.training.sources import Source

_ABANDONED_S = 3600.0  # longer than the hashing of what was written, when nothing is written
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
        self._notes = Notes(root)

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
        return find_place(self.root, dataset_id)

    def fingerprint(self, dataset_id: str) -> str:
        """The hash of a dataset's content: `sha256:` and 64 hex digits.

        The same for the same files, whenever and wherever they were laid. It is read anew only
        where a file changed since, or where the root cannot be written to.

        Raises:
            DatasetError: it is missing, cannot be read, changes meanwhile, or is not any more
                what `add` recorded.
        """
        with naming(dataset_id):
            return self._fingerprint(dataset_id, self.path(dataset_id))[0]

    def describe(self, dataset_id: str) -> dict[str, Any]:
        """What a dataset holds, as JSON can carry it.

        Returns:
            `dataset_id`, `layout` ("arrow", "parquet", "csv", "npz", "images"), `dataset_hash`,
            `splits` (name -> rows), `columns` (name -> `datatype` and the `shape` of one row),
            `size_bytes` on disk.

        Raises:
            DatasetError: it is missing or cannot be read.
        """
        place = self.path(dataset_id)
        with naming(dataset_id):
            dataset_hash, stamp = self._fingerprint(dataset_id, place)
            noted = self._notes.read(dataset_id, stamp)
            found = noted.get("described") or self._look(dataset_id)
            if noted:
                self._notes.write(dataset_id, stamp, {"described": found})
        files = content_files(place, self.root).values()
        return {
            "dataset_id": dataset_id,
            "layout": layout_of(place),
            "dataset_hash": dataset_hash,
            **found,
            "size_bytes": sum(file.stat().st_size for file in files),
        }

    def add(
        self,
        dataset_id: str,
        source: Path | Mapping[str, Mapping[str, Array]],
        *,
        image_size: tuple[int, int] | None = None,
    ) -> dict[str, Any]:
        """Store a dataset as an arrow folder; it appears whole, under a name that was free.

        Args:
            dataset_id: its name from now on.
            source: a parquet, csv or npz file; or a folder in one of the layouts above; or for
                each split ("train", and perhaps "validation") a numpy array for each column,
                rows first.
            image_size: width and height to which the images of a folder are resized.

        Returns:
            What `describe` says of it.

        Raises:
            DatasetError: the name is taken, or the source cannot be read or holds no rows.
        """
        check_name("dataset_id", dataset_id)
        taken = [self.root / f"{dataset_id}{ending}" for ending in ("", *ENDINGS)]
        if any(place.exists() for place in taken):
            raise self._taken(dataset_id)
        reading = load_room("reading")
        if isinstance(source, Path):
            sources = reading.open_place(source, source, image_size)
        else:
            sources = reading.of_arrays(source)
        reading.check(dataset_id, sources)
        self._remove_abandoned()
        staging = self.root / f".add-{uuid.uuid4().hex[:12]}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with naming(dataset_id):
                load_room("arrow_folder").write_folder(sources, staging)
            dataset_hash = content_hash(content_files(staging, self.root))
            stored = {"dataset_hash": dataset_hash, **reading.describe(sources)}
            write_record(staging, stored)
            sync_tree(staging)
            if not rename(staging, self.root / dataset_id):
                raise self._taken(dataset_id)
            sync(self.root)
        except OSError as error:
            raise DatasetError(f"cannot write dataset {dataset_id!r}: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return self.describe(dataset_id)

    def remove(self, dataset_id: str) -> None:
        """Remove a dataset. A training on it that is not done ends with an error.

        Raises:
            DatasetError: there is none, or it cannot be removed.
        """
        place = self.path(dataset_id)
        try:
            if place.is_dir() and not place.is_symlink():
                gone = self.root / f".add-{uuid.uuid4().hex[:12]}"  # nobody sees half of it
                place.rename(gone)
                shutil.rmtree(gone)
            else:
                place.unlink()
        except OSError as error:
            raise DatasetError(f"cannot remove dataset {dataset_id!r}: {error}") from error

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
        splits = self.splits(dataset_id)
        train = splits["train"] if "train" in splits else next(iter(splits.values()))
        held = next((splits[name] for name in _VALIDATION if name in splits), None)
        if held is not None and held is not train:  # a validation split alone is split as any
            return Splits(train, held)
        with naming(dataset_id):
            kept, held_back = split_rows(len(train), seed, validation_fraction, classes(train))
        # In memory, as `datasets` would write the order beside the data.
        return Splits(
            train.select(kept, keep_in_memory=True),
            train.select(held_back, keep_in_memory=True),
        )

    def _fingerprint(self, dataset_id: str, place: Path) -> tuple[str, str]:
        """The content's hash, and the stamp of the files that it was made of."""
        files = content_files(place, self.root)
        stamp, settled = stamp_of(files)
        found = self._notes.read(dataset_id, stamp).get("dataset_hash")
        if found is None:
            found = content_hash(files)
            if stamp_of(files)[0] != stamp:
                raise DatasetError("it changed while it was read; try again when it is complete")
            if settled:
                self._notes.write(dataset_id, stamp, {"dataset_hash": found})
        recorded = recorded_hash(place)
        if recorded not in {None, found}:
            raise DatasetError(
                f"it is not what was added: its content hash is {found}, and `add` recorded "
                f"{recorded}; add the data anew, under another name"
            )
        return found, stamp

    def _look(self, dataset_id: str) -> dict[str, Any]:
        found: dict[str, Any] = load_room("reading").describe(self._sources(dataset_id))
        return found

    def splits(self, dataset_id: str) -> "dict[str, datasets.Dataset]":
        """Every split as it lies there.

        Raises:
            DatasetError: it is missing, unreadable or empty, its splits differ in columns, or it
                does not fit into memory and was not stored by `add`.
        """
        with naming(dataset_id):
            return {name: source.read() for name, source in self._sources(dataset_id).items()}

    def _sources(self, dataset_id: str) -> "dict[str, Source]":
        reading = load_room("reading")
        sources: dict[str, Source] = reading.open_place(self.path(dataset_id), self.root)
        reading.check(dataset_id, sources)
        return sources

    def _remove_abandoned(self) -> None:
        """Remove what an `add` left that was killed."""
        for folder in self.root.glob(".add-*"):
            with suppress(OSError):  # somebody else removed it, or renamed it
                newest = max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
                if time.time() - newest > _ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)

    def _taken(self, dataset_id: str) -> DatasetError:
        return DatasetError(
            f"a dataset {dataset_id!r} exists already in {self.root}; choose another name, or "
            f"remove it first: mlbridge datasets remove {dataset_id}"
        )


def load_room(name: str) -> ModuleType:
    """Import a module of this folder that needs the `train` extra, as late as it is needed.

    Raises:
        DatasetError: the extra is not installed.
    """
    try:
        return importlib.import_module(f"bridge.training.{name}")
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"{error.name} is not installed: pip install 'taskiq-triton-bridge[train]'"
        ) from error


@contextmanager
def naming(dataset_id: str) -> Iterator[None]:
    """Have a `DatasetError` tell of which dataset it is."""
    try:
        yield
    except DatasetError as error:
        told = f"dataset {dataset_id!r}"
        raise error if told in str(error) else DatasetError(f"{told}: {error}") from error
