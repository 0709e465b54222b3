"""Npz files as a stream of arrow batches: all columns are read side by side, some rows at a time.

Enters: an archive of one array for each column, rows first. Leaves: its `Source`. Arrays of Python
objects are refused: reading them would run what a stranger wrote.
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from bridge.tensors import Array
from bridge.training import room, tables
from bridge.training.sources import Source, features_of, from_arrays, rows_in_batch, told


@dataclass(frozen=True, slots=True)
class _Column:
    """What an array's head says."""

    name: str
    shape: tuple[int, ...]
    kind: np.dtype[Any]
    by_row: bool
    """Whether a row's values lie together."""

    def read(self, file: IO[bytes], rows: int) -> Array:
        shape = (rows, *self.shape[1:])
        content = file.read(math.prod(shape) * self.kind.itemsize)
        return np.frombuffer(content, self.kind).reshape(shape)


def npz_source(path: Path) -> Source:
    """The rows of a file.

    Raises:
        DatasetError: it holds other things than numbers, booleans and texts, or its columns differ
            in length, or their values lie in another order and do not fit into memory.
        ValueError: it is no npz file, or holds Python objects.
    """
    with zipfile.ZipFile(path) as archive:
        columns = [_head(archive, name) for name in archive.namelist()]
        size = sum(item.file_size for item in archive.infolist())
    lengths = {column.shape[:1] for column in columns}
    if len(lengths) != 1 or () in lengths or not all(column.by_row for column in columns):
        room.check_memory(size, "make it parquet")
        with np.load(path, allow_pickle=False) as arrays:
            return from_arrays({name: arrays[name] for name in arrays.files})
    rows = columns[0].shape[0]
    empty = [np.empty((0, *column.shape[1:]), column.kind) for column in columns]
    features = features_of(_table(columns, empty).schema)

    def batches() -> Iterator[pa.Table]:
        step = rows_in_batch(size, rows)
        with told(path), ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(path))
            files = [stack.enter_context(archive.open(f"{one.name}.npy")) for one in columns]
            for file in files:
                _read_head(file)
            for start in range(0, rows, step):
                count = min(step, rows - start)
                arrays = [
                    column.read(file, count) for column, file in zip(columns, files, strict=True)
                ]
                yield _table(columns, arrays).cast(features.arrow_schema)

    return Source(features, rows, size, batches)


def _table(columns: list[_Column], arrays: list[Array]) -> pa.Table:
    return pa.table(
        {
            column.name: tables.to_arrow(column.name, array)
            for column, array in zip(columns, arrays, strict=True)
        }
    )


def _head(archive: zipfile.ZipFile, member: str) -> _Column:
    if not member.endswith(".npy"):
        raise ValueError(f"{member!r} in it is no array")
    with archive.open(member) as file:
        shape, by_column, kind = _read_head(file)
    if kind.hasobject:
        raise ValueError(f"{member!r} in it is an array of Python objects, which are not read")
    return _Column(member.removesuffix(".npy"), shape, kind, not by_column or len(shape) < 2)  # noqa: PLR2004


def _read_head(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    form: Any = np.lib.format  # which has no types
    first = form.read_magic(file) == (1, 0)
    read = form.read_array_header_1_0 if first else form.read_array_header_2_0
    head: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return head
