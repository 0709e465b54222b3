"""Where rows come from: each kind of file as a stream of arrow batches. No row is kept here.

Enters: a dataset's file or folder, or numpy arrays. Leaves: a `Source` for each split, whose
batches are read anew each time they are asked for, in bounded memory. Files are read by pyarrow
itself, not by the builders of `datasets`, so nothing is downloaded, cached or run.
"""

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from bridge.errors import DatasetError
from bridge.tensors import Array
from bridge.training import room, tables
from bridge.training.layouts import image_splits, layout_of, table_files

BATCH_BYTES = 16 * 1024 * 1024
"""About so much is in hand at a time."""

_WHOLE_CSV_BYTES = 32 * 1024 * 1024  # smaller ones are read at once
# Arrow reads about thirty blocks ahead, however slowly they are taken.
_CSV_BLOCK_BYTES = 1024 * 1024
_LONGEST_BLOCK_BYTES = 64 * 1024 * 1024
_CSV_MISFIT = re.compile(r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error to (\w+)")
_CSV_LONG_LINE = re.compile("straddl|Empty CSV file or block")
_KEEP = "store it by `mlbridge datasets add`, and it is read a piece at a time"


@dataclass(frozen=True, slots=True)
class Source:
    """One split's rows."""

    features: datasets.Features
    rows: int
    size_bytes: int
    """About what they take in arrow, in memory and on disk."""
    batches: Callable[[], Iterator[pa.Table]]
    """Tables with the features' schema, each of about `BATCH_BYTES`."""
    mapped: datasets.Dataset | None = None
    """The rows themselves, where they lie on disk as memory has them."""

    def first(self) -> pa.Table:
        """At least one row, if there is one."""
        return next(self.batches(), self.features.arrow_schema.empty_table())

    def read(self) -> datasets.Dataset:
        """All rows: memory-mapped, or else in memory.

        Raises:
            DatasetError: they cannot be read, or do not fit into memory.
        """
        if self.mapped is not None:
            return self.mapped
        room.check_memory(self.size_bytes, _KEEP)
        found = [*self.batches()]
        table = pa.concat_tables(found) if found else self.features.arrow_schema.empty_table()
        return tables.dataset(table, self.features)


def open_sources(place: Path) -> dict[str, Source]:
    """The splits of a file, or of a folder of tables, or of one that `datasets` saved.

    Raises:
        DatasetError: it is in none of them, or does not hold what its ending says.
    """
    layout = layout_of(place)
    if layout is None:
        raise DatasetError(
            f"{place} is neither a .parquet, .csv or .npz file, nor a folder of train.parquet "
            f"(.csv, .npz), nor one of images in a folder for each class, nor one that `datasets` "
            f"saved"
        )
    if layout == "arrow":
        return {name: _mapped(split) for name, split in tables.open_arrow(place).items()}
    if place.is_file():
        return {"train": _open_file(place)}
    if image_splits(place):
        raise DatasetError(f"{place.name!r} holds tables and folders of images; keep one of them")
    files = table_files(place)
    if len({file.stem for file in files}) < len(files):
        raise DatasetError(f"{place.name!r} holds one split twice: {[f.name for f in files]}")
    return {file.stem: _open_file(file) for file in files}


def from_arrays(columns: Mapping[str, Array]) -> Source:
    """Numpy arrays, rows first; the rows may have any rank.

    Raises:
        DatasetError: no columns, columns of different length, or arrays of objects.
    """
    rows = {name: len(array) if array.ndim else None for name, array in columns.items()}
    if not rows or None in rows.values() or len(set(rows.values())) > 1:
        raise DatasetError(f"every column must have the same number of rows, got {rows}")
    return _in_memory(
        pa.table({name: tables.to_arrow(name, array) for name, array in columns.items()})
    )


def rows_in_batch(size_bytes: int, rows: int) -> int:
    """How many rows make a batch, where so many rows take so many bytes."""
    return max(1, min(65_536, BATCH_BYTES * rows // max(size_bytes, 1)))


def _open_file(path: Path) -> Source:
    with _told(path):
        return {".parquet": _parquet, ".csv": _csv, ".npz": _npz}[path.suffix](path)


def _mapped(split: datasets.Dataset) -> Source:
    size = split.data.nbytes

    def batches() -> Iterator[pa.Table]:
        yield from split.with_format("arrow").iter(rows_in_batch(size, len(split)))

    return Source(split.features, len(split), size, batches, split)


def _in_memory(table: pa.Table) -> Source:
    features = _features(table.schema)
    table = table.cast(features.arrow_schema)

    def batches() -> Iterator[pa.Table]:
        size = rows_in_batch(table.nbytes, len(table))
        for start in range(0, len(table), size):
            yield table.slice(start, size)

    return Source(features, len(table), table.nbytes, batches)


def _parquet(path: Path) -> Source:
    # A ParquetFile, as read_table would also look for partitions in the folders' names.
    with pyarrow.parquet.ParquetFile(path) as file:
        found, features = file.metadata, _features(file.schema_arrow)
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    size = max(
        sum(group.total_byte_size for group in groups),
        found.num_rows * _width(features.arrow_schema),
    )

    def batches() -> Iterator[pa.Table]:
        with _told(path), _parquet_stream(path) as file:
            for batch in file.iter_batches(rows_in_batch(size, found.num_rows)):
                yield pa.Table.from_batches([batch]).cast(features.arrow_schema)

    return Source(features, found.num_rows, size, batches)


def _parquet_stream(path: Path) -> pyarrow.parquet.ParquetFile:
    # With `pre_buffer` all row groups are fetched ahead, however slowly they are taken.
    return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _csv(path: Path) -> Source:
    if path.stat().st_size <= _WHOLE_CSV_BYTES:
        return _in_memory(pyarrow.csv.read_csv(path))
    form = _csv_form(path)
    features = _features(form.schema)

    def batches() -> Iterator[pa.Table]:
        waiting: list[pa.RecordBatch] = []
        with _told(path), form.open(path) as reader:
            for batch in reader:
                waiting.append(batch)
                if sum(one.nbytes for one in waiting) >= BATCH_BYTES:
                    yield pa.Table.from_batches(waiting).cast(features.arrow_schema)
                    waiting = []
            if waiting:
                yield pa.Table.from_batches(waiting).cast(features.arrow_schema)

    # Of text only the file tells; numbers are about as long as their digits.
    size = max(form.rows * _width(form.schema), path.stat().st_size // 3)
    return Source(features, form.rows, size, batches)


@dataclass(frozen=True, slots=True)
class _CsvForm:
    """How a large csv file is read: types that hold throughout, blocks that hold each line."""

    schema: pa.Schema
    rows: int
    block_bytes: int

    def open(self, path: Path) -> pyarrow.csv.CSVStreamingReader:
        types = dict(zip(self.schema.names, self.schema.types, strict=True))
        return _csv_reader(path, types, self.block_bytes)


def _csv_form(path: Path) -> _CsvForm:
    """Reads the file until nothing in it misfits.

    Arrow takes the types from the first block. Where a later value does not fit, that column gets
    a wider type; where a line is longer than a block, blocks get longer.
    """
    wider: dict[str, pa.DataType] = {}
    names: list[str] = []
    block = _CSV_BLOCK_BYTES
    while True:
        try:
            with _csv_reader(path, wider, block) as reader:
                names = reader.schema.names
                return _CsvForm(reader.schema, sum(len(batch) for batch in reader), block)
        except pa.ArrowInvalid as error:
            misfit = _CSV_MISFIT.search(str(error))
            if misfit is not None and names:
                name, kind = names[int(misfit[1])], misfit[2]
                wider[name] = {"null": pa.int64(), "int64": pa.float64()}.get(kind, pa.string())
            elif (
                _CSV_LONG_LINE.search(str(error))
                and block < path.stat().st_size
                and (block < _LONGEST_BLOCK_BYTES)
            ):
                block *= 8
            else:
                raise


def _csv_reader(
    path: Path, types: dict[str, pa.DataType], block_bytes: int
) -> pyarrow.csv.CSVStreamingReader:
    return pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(block_size=block_bytes),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types),
    )


def _npz(path: Path) -> Source:
    with zipfile.ZipFile(path) as archive:
        room.check_memory(sum(item.file_size for item in archive.infolist()), "make it parquet")
    with np.load(path, allow_pickle=False) as arrays:
        return from_arrays({name: arrays[name] for name in arrays.files})


def _features(schema: pa.Schema) -> datasets.Features:
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise DatasetError(f"there are two columns of one name: {', '.join(map(repr, twice))}")
    return datasets.Features.from_arrow_schema(schema)


def _width(schema: pa.Schema) -> int:
    """Bytes of a row's columns of fixed width."""
    width = 0
    for kind in schema.types:
        try:
            width += max(1, kind.bit_width // 8)
        except ValueError:  # of no fixed width
            width += 0
    return width


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DatasetError(f"cannot read {path.name} as {path.suffix[1:]}: {reason[0]}") from error
