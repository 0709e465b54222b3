"""More data than a process may hold: stored and trained on by real processes with real limits."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bridge.training.datasets import DatasetStore

ROWS, WIDTH = 100_000, 1200
DATA_BYTES = ROWS * WIDTH * 4

# What a process may take beyond what its libraries took when they were loaded.
STORING_BYTES, TRAINING_BYTES = 250_000_000, 320_000_000

LIMIT = """
import json, pathlib, resource, sys
import psutil
def limit(further):
    most = psutil.Process().memory_info().data + further
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
root, folder, further = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
from bridge.training.datasets import DatasetStore
store = DatasetStore(root)
"""

STORE = f"""{LIMIT}
from bridge.training import arrow_folder, reading
limit(further)
store.add("large", folder / "large.parquet")
"""

TRAIN = f"""{LIMIT}
from bridge.training import job, room
from bridge.training.request import Hyperparameters, ModelConfig, TrainingRequest
limit(further)
if sys.argv[4] == "in memory":
    room.most_in_memory = lambda: 10**12
request = TrainingRequest(
    dataset_id="large", model_id="large",
    model=ModelConfig(architecture="mlp", options={{"hidden": [8]}}),
    hyperparameters=Hyperparameters(epochs=1, batch_size=2048),
)
def report(kind, content):
    if kind == "result":
        print(json.dumps(content))
job.work({{"request": request.model_dump(mode="json"), "dataset_root": str(root)}}, folder, report)
"""


def run(program, *arguments):
    """What a process reserves for stacks or arrow's own allocator would hide what it takes."""
    command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
    return subprocess.run(
        ["sh", "-c", 'ulimit -s 1024 && exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        },
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A parquet file of 480 MB, written a part at a time."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    kind = pa.list_(pa.float32(), WIDTH)
    schema = pa.schema([("x", kind), ("target", pa.int64())])
    part = ROWS // 20
    with pq.ParquetWriter(
        folder / "large.parquet", schema, compression="none", use_dictionary=False
    ) as out:
        for _ in range(20):
            classes = rng.integers(0, 2, part)
            rows = rng.random((part, WIDTH), np.float32)
            rows[:, 0] += 3 * classes
            column = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), WIDTH)
            out.write_table(pa.table({"x": column, "target": classes}, schema))
    return folder


@pytest.fixture(scope="module")
def root(large):
    (large / "root").mkdir()
    ran = run(STORE, large / "root", large, STORING_BYTES)
    assert ran.returncode == 0, ran.stderr
    (large / "large.parquet").unlink()
    yield large / "root"
    for file in large.rglob("*.arrow"):
        file.unlink()


def test_it_was_stored_whole(root):
    assert DATA_BYTES > STORING_BYTES
    described = DatasetStore(root).describe("large")
    assert described["splits"] == {"train": ROWS}
    assert described["size_bytes"] > DATA_BYTES


def test_a_training_streams_what_it_may_not_hold(root, tmp_path):
    assert DATA_BYTES > TRAINING_BYTES
    ran = run(TRAIN, root, tmp_path, TRAINING_BYTES, "streamed")
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["rows"] == {"train": 80_000, "validation": 20_000}
    assert result["dataset_hash"] == DatasetStore(root).fingerprint("large")
    assert (tmp_path / "version" / "model.onnx").is_file()


def test_the_limit_is_one(root, tmp_path):
    """Taken into memory, the same data is too much for it."""
    ran = run(TRAIN, root, tmp_path, TRAINING_BYTES, "in memory")
    assert ran.returncode != 0
    assert "Unable to allocate" in ran.stderr
