"""Real rows and torch's answers to them, from the training process to the trial through Triton."""

from pathlib import Path

import numpy as np

from bridge.tensors import Array, Tensor, pack_bytes


def save_probe(path: Path, rows: Array, answers: Array) -> None:
    """Write rows (numbers, or `str` objects of any length) and float32 answers to an `.npz`."""
    if rows.dtype.kind != "O":
        np.savez(path, rows=rows, answers=answers)
        return
    # numpy would pickle objects, or give each as much room as the longest.
    text = np.frombuffer(pack_bytes(rows), np.uint8)
    np.savez(path, text=text, shape=np.array(rows.shape), answers=answers)


def load_probe(path: Path) -> tuple[Array, Array]:
    """Read what `save_probe` wrote; text comes as `bytes` objects."""
    with np.load(path, allow_pickle=False) as probe:
        if "rows" in probe:
            return probe["rows"], probe["answers"]
        shape = tuple(int(size) for size in probe["shape"])
        return Tensor("BYTES", shape, probe["text"].tobytes()).to_array(), probe["answers"]
