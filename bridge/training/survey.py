"""What each column of a dataset holds, counted a batch of rows at a time.

Enters: a dataset's splits. Leaves: for each column its type, shape, gaps and classes, as JSON can
carry them. Nothing is judged here; `examples` does.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bridge.training import tables

_BATCH_ROWS = 4096
_MOST_CLASSES = 1000  # a column of more different values is not told value by value


def survey(splits: Mapping[str, datasets.Dataset]) -> dict[str, dict[str, Any]]:
    """Look through all rows of all splits.

    Returns:
        For each column `datatype`, `shape` (of one row), `missing` and `not_finite` (how many
        values), `ragged` (whether rows differ in shape), and `classes` (class -> rows, the most
        frequent first), or None where its values are no classes, or too many.
    """
    first = next(iter(splits.values()))
    columns = {name: _Column() for name in first.column_names}
    for split in splits.values():
        for batch in tables.parts_of(split)[0].to_batches(max_chunksize=_BATCH_ROWS):
            for name, column in columns.items():
                column.add(batch[name])
    described = tables.summary(tables.parts_of(first)[0])
    return {
        name: {**described[name], **column.found(tables.class_names(first, name))}
        for name, column in columns.items()
    }


class _Column:
    """Counts of one column."""

    def __init__(self) -> None:
        self.missing = self.not_finite = 0
        self.shapes: set[tuple[Any, ...]] = set()
        self.classes: Counter[Any] | None = Counter()

    def add(self, values: pa.Array) -> None:
        shape: list[Any] = []
        self.missing += values.null_count
        while (inner := tables.inner(values)) is not None:
            if not isinstance(values, pa.ExtensionArray):
                sizes = pc.unique(pc.list_value_length(values).drop_null()).to_pylist()
                shape.append(sizes[0] if len(sizes) == 1 else tuple(sizes))
            values = inner
            self.missing += values.null_count
        self.shapes.add(tuple(shape))
        if pa.types.is_floating(values.type):
            numbers = values.drop_null().to_numpy(zero_copy_only=False)
            self.not_finite += int(np.count_nonzero(~np.isfinite(numbers)))
        self._count(values, plain=not shape)

    def _count(self, values: pa.Array, *, plain: bool) -> None:
        kind = values.type
        if not plain or pa.types.is_floating(kind) or pa.types.is_nested(kind):
            self.classes = None
        if self.classes is not None:
            for pair in pc.value_counts(values.drop_null()).to_pylist():
                self.classes[pair["values"]] += pair["counts"]
            if len(self.classes) > _MOST_CLASSES:
                self.classes = None

    def found(self, names: list[str] | None) -> dict[str, Any]:
        classes = None
        if self.classes is not None:
            counts = self.classes.most_common()
            classes = {tables.class_label(value, names): rows for value, rows in counts}
        return {
            "missing": self.missing,
            "not_finite": self.not_finite,
            "ragged": len(self.shapes) > 1
            or any(isinstance(size, tuple) for shape in self.shapes for size in shape),
            "classes": classes,
        }
