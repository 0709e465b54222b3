"""What the training process does, from dataset to exported model. Imports torch."""

import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning
import numpy as np

from bridge.errors import DatasetError
from bridge.repository import Signature
from bridge.tensors import TensorSpec
from bridge.training import architectures
from bridge.training.datasets import DatasetStore
from bridge.training.examples import Examples
from bridge.training.export import compare, export
from bridge.training.fit import fit
from bridge.training.opening import open_examples
from bridge.training.request import Hyperparameters, TrainingRequest
from bridge.training.slicer import SliceEnded, Slices

Report = Callable[[str, dict[str, Any]], None]
"""Takes a line's kind and content."""

_PROBE_ROWS = 64
_LIBRARIES = (
    "taskiq-triton-bridge",
    "torch",
    "lightning",
    "datasets",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "numpy",
)


def work(
    job: dict[str, Any], folder: Path, report: Report, stop: Callable[[], bool] = lambda: False
) -> None:
    """Train what `job["request"]` asks for.

    Args:
        job: `request` (a `TrainingRequest` as JSON), `dataset_root`, and how long a slice is:
            see `bridge.training.process.Piece`.
        folder: exists and is empty; gets checkpoints, and at last `version/model.onnx` and
            `probe.npz`.
        report: gets one `plan` (the signature) before training, `progress` and `checkpoint` (its
            facts) during it, and at the end `result`, or `sliced` if it is not trained yet.
        stop: whether the slice shall end.

    Raises:
        TrainingError: one of its subclasses.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it praises its makers
    request = TrainingRequest.model_validate(job["request"])
    parameters = request.hyperparameters
    store = DatasetStore(Path(job["dataset_root"]))
    dataset_hash = store.fingerprint(request.dataset_id)
    if job["dataset_hash"] not in {None, dataset_hash}:
        raise DatasetError(
            f"dataset {request.dataset_id!r} has changed since the training began; add what is new "
            f"as another dataset, and train on that"
        )
    examples = open_examples(store, request.dataset_id, request.model, parameters)
    signature = signature_of(examples, request.model.max_batch_size)
    network = _network(request, examples)
    report("plan", {"signature": signature.to_json()})

    slices = Slices(
        folder=folder,
        saved=lambda facts: report("checkpoint", {**facts, "dataset_hash": dataset_hash}),
        stop=stop,
        resume=Path(job["resume"]) if job["resume"] else None,
        **{name: job[name] for name in ("length_s", "checkpoint_every_s", "limit_s", "finished")},
    )
    try:
        metrics = fit(
            network, examples, parameters, slices, lambda progress: report("progress", progress)
        )
    except SliceEnded:
        report("sliced", {})
        return
    seconds = metrics.pop("training_s")
    rows = examples.validation.inputs[:_PROBE_ROWS]
    (folder / "version").mkdir()
    names = (signature.inputs[0].name, signature.outputs[0].name)
    path = export(network, rows, names, folder / "version")
    parity, answers = compare(network, path, rows, request.model.max_batch_size)
    np.savez(folder / "probe.npz", rows=rows, answers=answers)
    report(
        "result",
        {
            "metrics": metrics,
            "parity": parity,
            "dataset_hash": dataset_hash,
            "columns": list(examples.columns),
            "target": examples.target,
            "task": examples.task,
            "rows": {
                "train": len(examples.train.inputs),
                "validation": len(examples.validation.inputs),
            },
            "hyperparameters": _used(parameters, len(examples.train.inputs)),
            "training_s": seconds,
            "libraries": _libraries(),
        },
    )


def signature_of(examples: Examples, max_batch_size: int) -> Signature:
    """What the model will take and give: raw float32 rows; probabilities, or values."""
    output = "probabilities" if examples.labels else "values"
    return Signature(
        (TensorSpec(examples.input_name, "FP32", (-1, *examples.input_shape)),),
        (TensorSpec(output, "FP32", (-1, examples.outputs)),),
        max_batch_size,
        examples.labels,
    )


def _network(request: TrainingRequest, examples: Examples) -> architectures.Network:
    lightning.seed_everything(request.hyperparameters.seed, workers=True, verbose=False)
    inner = architectures.build(
        request.model.architecture,
        request.model.options,
        examples.input_shape,
        examples.outputs,
    )
    values = None if examples.labels else examples.train.targets
    return architectures.Network(inner, examples.train.inputs, values)


def _used(parameters: Hyperparameters, rows: int) -> dict[str, Any]:
    return {**parameters.model_dump(mode="json"), "batch_size": parameters.batch_size_for(rows)}


def _libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that was not installed
            found[name] = "unknown"
    return found
