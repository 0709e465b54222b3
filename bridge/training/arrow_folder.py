"""Writes datasets as `datasets` does, a batch at a time, and only where there is room.

Enters: a `Source` for each split. Leaves: a folder that `tables.open_arrow` reads, memory-mapped.
The same rows make the same bytes, as their hash names them.
"""

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from bridge.training import room
from bridge.training.sources import Source

_FILE = "data-00000-of-00001.arrow"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_folder(sources: Mapping[str, Source], folder: Path) -> None:
    """Write all splits.

    Args:
        sources: by the split's name.
        folder: new; what was written into it before an error is the caller's to remove.

    Raises:
        DatasetError: the disk has no room, or a source cannot be read.
        OSError: the folder cannot be written to.
    """
    needed = sum(source.size_bytes for source in sources.values())
    folder.mkdir()
    try:
        room.check_disk(folder.parent, needed, needed)
        for name, source in sources.items():
            _write_split(source, folder / name, needed)
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(sources)}))
    except OSError as error:
        if error.errno in _FULL:
            raise room.no_room(needed, f"the system says: {error.strerror}") from error
        raise


def _write_split(source: Source, folder: Path, needed: int) -> None:
    folder.mkdir()
    schema = source.features.arrow_schema
    with (
        pa.OSFile(str(folder / _FILE), "wb") as file,
        pa.ipc.new_stream(file, schema) as writer,
    ):
        for batch in source.batches():
            room.check_disk(folder.parent.parent, batch.nbytes, needed)
            writer.write_table(batch.combine_chunks())
    datasets.DatasetInfo(features=source.features).write_to_directory(str(folder))
    state: dict[str, Any] = {
        "_data_files": [{"filename": _FILE}],
        "_fingerprint": "unused",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state, indent=2))
