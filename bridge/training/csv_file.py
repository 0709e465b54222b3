"""Csv files as a stream of arrow batches; small ones at once.

Enters: a file with a header line. Leaves: its `Source`, whose column types hold for all rows.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from bridge.training import sources
from bridge.training.sources import Source, features_of, in_memory, told, width_of

_WHOLE_CSV_BYTES = 32 * 1024 * 1024  # smaller ones are read at once
# Arrow reads about thirty blocks ahead, however slowly they are taken.
_CSV_BLOCK_BYTES = 1024 * 1024
_LONGEST_BLOCK_BYTES = 64 * 1024 * 1024
_CSV_MISFIT = re.compile(r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error to (\w+)")
_CSV_LONG_LINE = re.compile("straddl|Empty CSV file or block")
_PARSING = pyarrow.csv.ParseOptions(newlines_in_values=True)  # in quotes


def csv_source(path: Path) -> Source:
    """The rows of a file.

    Raises:
        ArrowException: it is no csv file with a header line and equally many values in each line,
            or not UTF-8.
    """
    _refuse_utf_16(path)
    size = path.stat().st_size
    if size <= _WHOLE_CSV_BYTES:
        # In one block, as a line may be as long as the file.
        whole = pyarrow.csv.ReadOptions(block_size=max(_CSV_BLOCK_BYTES, size + 1))
        table = pyarrow.csv.read_csv(path, read_options=whole, parse_options=_PARSING)
        for name, kind in zip(table.schema.names, table.schema.types, strict=True):
            if kind == pa.binary():
                raise _not_utf_8(f"column {name!r} holds text")
        return in_memory(table)
    form = _csv_form(path)
    features = features_of(form.schema)

    def batches() -> Iterator[pa.Table]:
        waiting: list[pa.RecordBatch] = []
        with told(path), form.open(path) as reader:
            for batch in reader:
                waiting.append(batch)
                if sum(one.nbytes for one in waiting) >= sources.BATCH_BYTES:
                    yield pa.Table.from_batches(waiting).cast(features.arrow_schema)
                    waiting = []
            if waiting:
                yield pa.Table.from_batches(waiting).cast(features.arrow_schema)

    # Of text only the file tells; numbers are about as long as their digits.
    size = max(form.rows * width_of(form.schema), size // 3)
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

    Raises:
        ArrowException: see `csv_source`; or text is not UTF-8.
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
                if kind == "string":  # nothing is wider, and each turn must change something
                    raise _not_utf_8(f"column {name!r} holds text") from error
                wider[name] = {"null": pa.int64(), "int64": pa.float64()}.get(kind, pa.string())
            elif (
                _CSV_LONG_LINE.search(str(error))
                and block < path.stat().st_size
                and (block < _LONGEST_BLOCK_BYTES)
            ):
                block *= 8
            else:
                raise


def _refuse_utf_16(path: Path) -> None:
    """As Excel's "Unicode text" is written; Arrow would only miss the columns."""
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise _not_utf_8("it is text", "UTF-16")


def _not_utf_8(what: str, encoding: str = "WINDOWS-1252") -> pa.ArrowInvalid:
    return pa.ArrowInvalid(
        f"{what} that is not UTF-8; convert the file, for example: iconv -f "
        f"{encoding} -t UTF-8 OLD.csv > NEW.csv"
    )


def _csv_reader(
    path: Path, types: dict[str, pa.DataType], block_bytes: int
) -> pyarrow.csv.CSVStreamingReader:
    return pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(block_size=block_bytes),
        parse_options=_PARSING,
        convert_options=pyarrow.csv.ConvertOptions(column_types=types),
    )
