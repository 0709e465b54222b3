"""Where rows come from: a stream of arrow batches that can be had again and again.

Enters: numpy arrays, arrow tables, or what `datasets` has opened; files come by `files` and
`images`. Leaves: a `Source` for each split, whose batches are read anew each time they are asked
for, in bounded memory.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa

from bridge.errors import DatasetError
from bridge.tensors import Array
from bridge.training import room, tables

BATCH_BYTES = 16 * 1024 * 1024
"""About so much is in hand at a time."""

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


def from_arrays(columns: Mapping[str, Array]) -> Source:
    """Numpy arrays, rows first; the rows may have any rank.

    Raises:
        DatasetError: no columns, columns of different length, or arrays of objects.
    """
    rows = {name: len(array) if array.ndim else None for name, array in columns.items()}
    if not rows or None in rows.values() or len(set(rows.values())) > 1:
        raise DatasetError(f"every column must have the same number of rows, got {rows}")
    return in_memory(
        pa.table({name: tables.to_arrow(name, array) for name, array in columns.items()})
    )


def rows_in_batch(size_bytes: int, rows: int) -> int:
    """How many rows make a batch, where so many rows take so many bytes."""
    return max(1, min(65_536, BATCH_BYTES * rows // max(size_bytes, 1)))


def mapped(split: datasets.Dataset) -> Source:
    """What `datasets` has opened, memory-mapped."""
    size = split.data.nbytes

    def batches() -> Iterator[pa.Table]:
        yield from split.with_format("arrow").iter(rows_in_batch(size, len(split)))

    return Source(split.features, len(split), size, batches, split)


def in_memory(table: pa.Table) -> Source:
    """A table that was read already."""
    features = features_of(table.schema)
    table = table.cast(features.arrow_schema)

    def batches() -> Iterator[pa.Table]:
        size = rows_in_batch(table.nbytes, len(table))
        for start in range(0, len(table), size):
            yield table.slice(start, size)

    return Source(features, len(table), table.nbytes, batches)


def features_of(schema: pa.Schema) -> datasets.Features:
    """What `datasets` calls these columns.

    Raises:
        DatasetError: two columns have one name.
    """
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise DatasetError(f"there are two columns of one name: {', '.join(map(repr, twice))}")
    return datasets.Features.from_arrow_schema(schema)


def width_of(schema: pa.Schema) -> int:
    """Bytes of a row's columns of fixed width."""
    width = 0
    for kind in schema.types:
        try:
            width += max(1, kind.bit_width // 8)
        except ValueError:  # of no fixed width
            width += 0
    return width


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Have the errors of reading a file tell which file it is."""
    try:
        yield
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DatasetError(f"cannot read {path.name} as {path.suffix[1:]}: {reason[0]}") from error
