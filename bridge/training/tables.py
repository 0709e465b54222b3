"""Arrow tables to numpy and back: what pyarrow and Hugging Face `datasets` do for us.

Enters: folders that `datasets.DatasetStore` has found to be inside its root, and columns. Leaves:
`datasets.Dataset` objects and numpy arrays. This module loads both libraries.
"""

import json
import os
import tempfile
from collections.abc import Iterable
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

from bridge.errors import DatasetError
from bridge.tensors import Array
from bridge.training.layouts import is_content

datasets.disable_progress_bars()


def open_arrow(folder: Path) -> dict[str, datasets.Dataset]:
    """Open what `save_to_disk` wrote, memory-mapped; a single dataset is split "train".

    Raises:
        DatasetError: the folder is damaged, or names files outside of it.
    """
    try:
        _check_names(folder)
        opened = datasets.load_from_disk(str(folder))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"cannot read the arrow folder {folder.name!r}: {error}") from error
    return dict(opened) if isinstance(opened, datasets.DatasetDict) else {"train": opened}


def _check_names(folder: Path) -> None:
    """What `datasets` would open, wherever it lies, is to be of what was found to be this dataset.

    Raises:
        DatasetError: something else is named.
    """
    splits = folder / "dataset_dict.json"
    named = json.loads(splits.read_bytes())["splits"] if splits.is_file() else []
    _check_plain(splits, named)
    for place in (folder, *(folder / name for name in named)):
        state = place / "state.json"
        if state.is_file():
            files = json.loads(state.read_bytes())["_data_files"]
            _check_plain(state, [file["filename"] for file in files])


def _check_plain(file: Path, names: list[Any]) -> None:
    for name in names:
        if not is_content(name):
            raise DatasetError(
                f"{file.name} of the arrow folder {file.parent.name!r} names {name!r}, and may "
                "only name what lies beside it; save the data anew"
            )


def summary(table: pa.Table) -> dict[str, dict[str, Any]]:
    """For each column its element type and the shape of its first row."""
    described = {}
    for name in table.column_names:
        values, shape = table[name][:1].combine_chunks(), list[int]()
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
    check_column(dataset, name)
    table, rows = parts_of(dataset)
    parts = [to_numpy(name, chunk) for chunk in table[name].chunks if len(chunk)]
    if not parts:
        raise DatasetError(f"column {name!r} has no rows")
    check_shapes(name, [part.shape[1:] for part in parts])
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return whole if rows is None else whole[rows]


def check_column(dataset: datasets.Dataset, name: str) -> None:
    """It must be there, and have a value in each row.

    Raises:
        DatasetError: it is not, or has not.
    """
    if name not in dataset.column_names:
        raise DatasetError(
            f"there is no column {name!r}; there are {', '.join(map(repr, dataset.column_names))}"
        )
    missing = parts_of(dataset)[0][name].null_count
    if missing:
        raise DatasetError(f"column {name!r} has {missing} missing values")


def parts_of(dataset: datasets.Dataset) -> tuple[pa.Table, Array | None]:
    """The table beneath a dataset, and the numbers of its rows that were selected; None: all.

    Going through `datasets` copies every row that it is asked for.
    """
    picked = dataset._indices  # noqa: SLF001  (there is no public way to them)
    rows = None if picked is None else picked.column(0).to_numpy().astype(np.int64)
    return dataset.data.table, rows


def check_shapes(name: str, shapes: Iterable[tuple[int, ...]]) -> None:
    """All rows must have one shape.

    Raises:
        DatasetError: they have not.
    """
    different = sorted({str(list(shape)) for shape in shapes})
    if len(different) > 1:
        raise _ragged(name, different)


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


def dataset(table: pa.Table, features: datasets.Features) -> datasets.Dataset:
    """Rows in memory."""
    # A fingerprint is the key of a cache that is not used here; making one would pickle the table.
    return datasets.Dataset(
        datasets.table.InMemoryTable(table),
        info=datasets.DatasetInfo(features=features),
        fingerprint="unused",
    )


def to_arrow(name: str, array: Array) -> pa.Array:
    """An array, rows first, as a column whose rows may have any rank.

    Raises:
        DatasetError: it holds neither numbers, booleans nor one text for each row.
    """
    if array.dtype.kind == "U" and array.ndim == 1:
        return pa.array(array.tolist(), pa.string())
    if array.dtype.kind not in "biuf":
        raise DatasetError(
            f"column {name!r} is an array of {array.dtype}; only numbers, booleans and one "
            f"text for each row can be stored"
        )
    native = array.dtype.newbyteorder("=")  # arrow reads no other
    values = pa.array(np.ascontiguousarray(array, dtype=native).reshape(-1))
    for size in reversed(array.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


def to_numpy(name: str, values: pa.Array) -> Array:
    """A column's piece as [rows, ...], without a copy where arrow holds plain numbers.

    Raises:
        DatasetError: as `column_array`.
    """
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
        # One object for each different text, however many rows have it.
        encoded = values.dictionary_encode()
        texts = np.array([*encoded.dictionary.to_pylist(), None], dtype=object)
        spread: Array = texts[encoded.indices.to_numpy()]
        return spread.reshape(shape)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise _unknown(name, kind)
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


def _unknown(name: str, kind: pa.DataType) -> DatasetError:
    if pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}:
        return DatasetError(
            f"column {name!r} holds images as `datasets` keeps them, in files; store their pixels "
            f"instead: docs/datasets.md shows how, under Hugging Face"
        )
    return DatasetError(
        f"column {name!r} holds {kind}; expected numbers, booleans or text: turn it into numbers, "
        f"or leave it out by naming the others in model_config.inputs"
    )


def _ragged(name: str, found: list[Any]) -> DatasetError:
    return DatasetError(
        f"column {name!r} is ragged: its rows have sizes {sorted(map(str, found))[:5]}; bring "
        f"every row to one shape"
    )
