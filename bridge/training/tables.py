"""Files and arrow tables: everything that pyarrow and Hugging Face `datasets` do for us.

Enters: paths that `datasets.DatasetStore` has found to be inside its root, and columns. Leaves:
`datasets.Dataset` objects and numpy arrays. Files are read by pyarrow itself, not by the
builders of `datasets`, so nothing is downloaded, cached or run.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Both libraries read these when they are imported: no hub, and a cache (which nothing here
# fills) away from the user's own.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HOME"] = str(Path(tempfile.gettempdir(), f"bridge-hf-{os.getpid()}"))

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from bridge.errors import DatasetError
from bridge.tensors import Array

datasets.disable_progress_bars()

Columns = Mapping[str, Array]
"""Column name -> numpy array; the first dimension counts the rows."""


def read_file(path: Path) -> datasets.Dataset:
    """Read a parquet, csv (with a header line) or npz file (one array for each column).

    Raises:
        DatasetError: the file does not hold what its ending says.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return from_arrays({name: arrays[name] for name in arrays.files})
        if path.suffix == ".csv":
            return _dataset(pyarrow.csv.read_csv(path))
        # A ParquetFile, as read_table would also look for partitions in the folders' names.
        with pyarrow.parquet.ParquetFile(path) as file:
            return _dataset(file.read())
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DatasetError(f"cannot read {path.name} as {path.suffix[1:]}: {reason[0]}") from error


def from_arrays(columns: Columns) -> datasets.Dataset:
    """Make a dataset of numpy arrays, whose rows may have any rank.

    Raises:
        DatasetError: no columns, columns of different length, or arrays of objects.
    """
    rows = {name: len(array) if array.ndim else None for name, array in columns.items()}
    if not rows or None in rows.values() or len(set(rows.values())) > 1:
        raise DatasetError(f"every column must have the same number of rows, got {rows}")
    return _dataset(pa.table({name: _to_arrow(name, array) for name, array in columns.items()}))


def open_arrow(folder: Path) -> dict[str, datasets.Dataset]:
    """Open what `save_to_disk` wrote, memory-mapped; a single dataset is split "train".

    Raises:
        DatasetError: the folder is damaged.
    """
    try:
        opened = datasets.load_from_disk(str(folder))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DatasetError(f"cannot read the arrow folder {folder.name!r}: {error}") from error
    return dict(opened) if isinstance(opened, datasets.DatasetDict) else {"train": opened}


def save_arrow(splits: Mapping[str, datasets.Dataset], folder: Path) -> None:
    """Write splits as one arrow folder that `open_arrow` reads."""
    datasets.DatasetDict(splits).save_to_disk(str(folder))


def summary(dataset: datasets.Dataset) -> dict[str, dict[str, Any]]:
    """For each column its element type and the shape of its first row."""
    first = dataset.with_format("arrow")[:1]
    described = {}
    for name in dataset.column_names:
        values, shape = first[name].combine_chunks(), list[int]()
        while (inside := inner(values)) is not None:
            if not isinstance(values, pa.ExtensionArray):
                shape.append(len(inside))
                inside = inside[:1]
            values = inside
        described[name] = {"datatype": str(values.type), "shape": shape}
    return described


def column_array(dataset: datasets.Dataset, name: str) -> Array:
    """One column as a numpy array of shape [rows, ...]; text as an array of `str` objects.

    Raises:
        DatasetError: there is no such column, or its rows differ in shape, or values are missing,
            or they are neither numbers, booleans nor text.
    """
    if name not in dataset.column_names:
        raise DatasetError(
            f"there is no column {name!r}; there are {', '.join(map(repr, dataset.column_names))}"
        )
    chunks = dataset.with_format("arrow")[:][name].chunks
    parts = [_to_numpy(name, chunk) for chunk in chunks if len(chunk)]
    if not parts:
        raise DatasetError(f"column {name!r} has no rows")
    if len({part.shape[1:] for part in parts}) > 1:
        raise _ragged(name, [part.shape[1:] for part in parts])
    return np.concatenate(parts)


def class_names(dataset: datasets.Dataset, name: str) -> list[str] | None:
    """Names that a `ClassLabel` column carries for its numbers, or None."""
    feature = dataset.features[name]
    return list(feature.names) if isinstance(feature, datasets.ClassLabel) else None


def class_label(value: object, names: list[str] | None) -> str:
    """How a class is called in a model's answers; `names` are those of a `ClassLabel`."""
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    if isinstance(value, float):
        return str(int(value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _dataset(table: pa.Table) -> datasets.Dataset:
    # A fingerprint is the key of a cache that is not used here. Making one would pickle the table,
    # and it is saved with the data, whose content hash must be that of the same data elsewhere.
    return datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint="unused")


def _to_arrow(name: str, array: Array) -> pa.Array:
    if array.dtype.kind == "U" and array.ndim == 1:
        return pa.array(array.tolist(), pa.string())
    if array.dtype.kind not in "biuf":
        raise DatasetError(
            f"column {name!r} is an array of {array.dtype}; only numbers, booleans and one "
            f"text for each row can be stored"
        )
    values = pa.array(np.ascontiguousarray(array).reshape(-1))
    for size in reversed(array.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


def _to_numpy(name: str, values: pa.Array) -> Array:
    shape = [len(values)]
    while True:
        if values.null_count:
            raise DatasetError(f"column {name!r} has {values.null_count} missing values")
        inside = inner(values)
        if inside is None:
            break
        if not isinstance(values, pa.ExtensionArray):
            sizes = pc.unique(pc.list_value_length(values)).to_pylist()
            if len(sizes) > 1:
                raise _ragged(name, sizes)
            shape.append(sizes[0])
        values = inside
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.dictionary_decode()
        kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array([*values.to_pylist(), None], dtype=object)[:-1].reshape(shape)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DatasetError(f"column {name!r} holds {kind}; expected numbers, booleans or text")
    array: Array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array


def inner(values: pa.Array) -> pa.Array | None:
    """What lies one level inside a list or extension array; None for plain values."""
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return values.storage
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return values.flatten()
    return None


def _ragged(name: str, found: list[Any]) -> DatasetError:
    return DatasetError(
        f"column {name!r} is ragged: its rows have sizes {sorted(map(str, found))[:5]}; bring "
        f"every row to one shape"
    )
