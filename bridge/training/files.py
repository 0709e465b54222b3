"""Files and folders of tables, each as a stream of arrow batches.

Enters: a dataset's file or folder. Leaves: a `Source` for each split. Files are read by pyarrow
itself, not by the builders of `datasets`, so nothing is downloaded, cached or run.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from bridge.errors import DatasetError
from bridge.training import tables
from bridge.training.csv_file import csv_source
from bridge.training.layouts import image_splits, layout_of, table_files
from bridge.training.npz_file import npz_source
from bridge.training.sources import (
    Source,
    features_of,
    mapped,
    rows_in_batch,
    told,
    width_of,
)


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
        return {name: mapped(split) for name, split in tables.open_arrow(place).items()}
    if place.is_file():
        return {"train": _open_file(place)}
    if image_splits(place):
        raise DatasetError(f"{place.name!r} holds tables and folders of images; keep one of them")
    files = table_files(place)
    if len({file.stem for file in files}) < len(files):
        raise DatasetError(f"{place.name!r} holds one split twice: {[f.name for f in files]}")
    return {file.stem: _open_file(file) for file in files}


def _open_file(path: Path) -> Source:
    with told(path):
        return {".parquet": _parquet, ".csv": csv_source, ".npz": npz_source}[path.suffix](path)


def _parquet(path: Path) -> Source:
    # A ParquetFile, as read_table would also look for partitions in the folders' names.
    with pyarrow.parquet.ParquetFile(path) as file:
        found, features = file.metadata, features_of(file.schema_arrow)
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    size = max(
        sum(group.total_byte_size for group in groups),
        found.num_rows * width_of(features.arrow_schema),
    )

    def batches() -> Iterator[pa.Table]:
        with told(path), _parquet_stream(path) as file:
            for batch in file.iter_batches(rows_in_batch(size, found.num_rows)):
                yield pa.Table.from_batches([batch]).cast(features.arrow_schema)

    return Source(features, found.num_rows, size, batches)


def _parquet_stream(path: Path) -> pyarrow.parquet.ParquetFile:
    # With `pre_buffer` all row groups are fetched ahead, however slowly they are taken.
    return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
