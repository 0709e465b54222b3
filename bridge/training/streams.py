"""Input rows, in memory where they fit, or else read from where they lie, a batch at a time.

Enters: a split and the columns to learn from. Leaves: something with a shape that gives float32
rows by their numbers: an array, or a `Stream` over arrow's memory-mapped files. No torch.
"""

import math
import shlex
from collections.abc import Iterator
from typing import Protocol

import datasets
import numpy as np
import pyarrow as pa

from bridge.errors import DatasetError
from bridge.tensors import Array
from bridge.training import room, tables

_PIECE_BYTES = 16 * 1024 * 1024


class Inputs(Protocol):
    """Rows to learn from; a numpy array is one, and so is a `Stream`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[rows, *input_shape]."""

    def __len__(self) -> int: ...

    def __getitem__(self, picked: Array | slice, /) -> Array:
        """float32 [picked, *input_shape], in the order that was asked for."""


class Stream:
    """Rows of arrow batches, made into numbers when they are asked for."""

    def __init__(self, split: datasets.Dataset, columns: tuple[str, ...]) -> None:
        """Look at the columns' types and shapes; their numbers are not read.

        Raises:
            DatasetError: a column is missing, ragged, has missing values or holds no numbers, or
                columns cannot be laid side by side.
        """
        for name in columns:
            tables.check_column(split, name)
        self._columns = columns
        table, self._rows = tables.parts_of(split)
        # Record batches, as their ends are the same in all columns.
        self._batches = [
            [_numbers_of(name, batch.column(name)) for name in columns]
            for batch in table.select(list(columns)).to_batches()
            if len(batch)
        ]
        lengths = [len(batch[0]) for batch in self._batches]
        self._starts = np.cumsum([0, *lengths])[:-1]
        shapes = [
            _one_shape(name, [batch[at] for batch in self._batches])
            for at, name in enumerate(columns)
        ]
        self._widths = [math.prod(shape) for shape in shapes]
        rows = sum(lengths) if self._rows is None else len(self._rows)
        self.shape = (rows, *_side_by_side(columns, shapes))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Of all rows as float32."""
        return 4 * math.prod(self.shape)

    def __getitem__(self, picked: Array | slice, /) -> Array:
        """float32 [picked, *input_shape]; what is too large for float32 becomes infinite."""
        if isinstance(picked, slice):
            picked = np.arange(*picked.indices(len(self)))
        return self._read(picked if self._rows is None else self._rows[picked])

    def pieces(self) -> Iterator[Array]:
        """All rows in the order in which they lie, a few megabytes at a time."""
        for rows in self._order():
            yield self._read(rows)

    def check(self) -> None:
        """Read everything once.

        Raises:
            DatasetError: values are NaN, infinite or too large for float32; tells the column.
        """
        bad = dict.fromkeys(self._columns, 0)
        first: dict[str, int] = {}
        for rows in self._order():
            values, left = self._read(rows), 0
            flat = values.reshape(len(rows), -1)
            for name, width in zip(self._columns, self._widths, strict=True):
                wrong = ~np.isfinite(flat[:, left : left + width]).all(axis=1)
                if wrong.any():
                    first.setdefault(name, int(rows[wrong.argmax()]))
                    bad[name] += int(wrong.sum())
                left += width
        for name, row in first.items():
            raise not_finite(name, bad[name], len(self), row)

    def _order(self) -> Iterator[Array]:
        """Row numbers in the batches, as they lie, in pieces."""
        rows = np.arange(len(self)) if self._rows is None else np.sort(self._rows)
        size = _rows_in_piece(self.shape)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def _read(self, rows: Array) -> Array:
        found = np.empty((len(rows), sum(self._widths)), np.float32)
        batch_of = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(batch_of, kind="stable")
        numbers, begins = np.unique(batch_of[order], return_index=True)
        with np.errstate(over="ignore"):
            for number, here in zip(numbers, np.split(order, begins[1:]), strict=True):
                local, left = rows[here] - self._starts[number], 0
                parts = zip(self._columns, self._batches[number], self._widths, strict=True)
                for name, part, width in parts:
                    values = _take(name, part, local).reshape(len(here), width)
                    found[here, left : left + width] = values
                    left += width
        return found.reshape(len(rows), *self.shape[1:])


def inputs_of(split: datasets.Dataset, columns: tuple[str, ...]) -> Inputs:
    """Checked rows: in memory if they are small beside what is free, else streamed.

    Raises:
        DatasetError: they cannot be trained on; tells the column and what to do.
    """
    stream = Stream(split, columns)
    stream.check()
    return stream[:] if stream.nbytes <= room.most_in_memory() else stream


def pieces_of(inputs: Inputs) -> Iterator[Array]:
    """All rows, a few megabytes at a time; of a stream, in the order in which they lie."""
    if isinstance(inputs, Stream):
        yield from inputs.pieces()
        return
    size = _rows_in_piece(inputs.shape)
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]


def not_finite(name: str, bad: int, rows: int, first: int) -> DatasetError:
    """The error of a column with values that are no numbers."""
    return DatasetError(
        f"column {name!r} has NaN, infinite or too large values in {bad} of {rows} rows (first in "
        f"row {first} of its split); clean it before"
    )


def _rows_in_piece(shape: tuple[int, ...]) -> int:
    return max(1, _PIECE_BYTES // (4 * max(1, math.prod(shape[1:]))))


def _numbers_of(name: str, values: pa.Array) -> Array | pa.Array:
    """A view of plain numbers; anything else as it is, as turning it would copy it."""
    if tables.to_numpy(name, values[:1]).dtype.kind == "O":
        raise DatasetError(
            f"column {name!r} holds text, not numbers; name the columns to learn from in "
            f"model_config.inputs, turn the text into numbers, or learn from it alone: "
            f"model_config.input and the architecture transformer (`mlbridge train`: "
            f"--architecture transformer -c input={shlex.quote(name)})"
        )
    numbers = tables.to_numpy(name, values)
    return values if numbers.dtype.kind == "b" else numbers


def _take(name: str, part: Array | pa.Array, rows: Array) -> Array:
    if isinstance(part, pa.Array):
        return tables.to_numpy(name, part.take(pa.array(rows)))
    taken: Array = part[rows]
    return taken


def _one_shape(name: str, parts: list[Array | pa.Array]) -> tuple[int, ...]:
    """The shape of a row in all of a column's parts."""
    first = [tables.to_numpy(name, p[:1]) if isinstance(p, pa.Array) else p for p in parts]
    shapes = [part.shape[1:] for part in first]
    tables.check_shapes(name, shapes)
    shape: tuple[int, ...] = shapes[0]
    if not math.prod(shape):
        raise DatasetError(f"column {name!r} has rows without a value: shape {list(shape)}")
    return shape


def _side_by_side(columns: tuple[str, ...], shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    if len(shapes) == 1:
        return shapes[0] or (1,)
    for name, shape in zip(columns, shapes, strict=True):
        if len(shape) > 1:
            raise DatasetError(
                f"column {name!r} has rows of shape {list(shape)}, which cannot be laid "
                f"beside other columns: name it alone as model_config.input"
            )
    return (sum(math.prod(shape) for shape in shapes),)
