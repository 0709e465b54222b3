"""What the training process does, from dataset to exported model. Imports torch."""

import contextlib
import logging
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning
import torch

from bridge.errors import DatasetError, InvalidTrainingRequestError
from bridge.repository import Signature
from bridge.tensors import TensorSpec
from bridge.training import architectures
from bridge.training.breath import breathing
from bridge.training.datasets import DatasetStore
from bridge.training.devices import launch, must_launch, place
from bridge.training.examples import Examples
from bridge.training.fit import fit
from bridge.training.hyperparameters import Hyperparameters
from bridge.training.judging import check_good_enough, check_required
from bridge.training.opening import open_examples
from bridge.training.pretrained import begin_with, freeze_all_but_head, weights_file
from bridge.training.proof import Trained, prove
from bridge.training.published import FIELD
from bridge.training.rendezvous import Meeting
from bridge.training.request import ModelConfig, TrainingRequest
from bridge.training.slicer import SliceEnded, Slices
from bridge.training.variants import check_variant

Report = Callable[[str, dict[str, Any]], None]
"""Takes a line's kind and content."""

_EXPORT_S = 4 * 3600.0  # with its proof, on processors
_PIECE = ("length_s", "checkpoint_every_s", "limit_s", "finished")
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
    """Do a job, on as many devices as it asks for; see `train`.

    Where it asks for several machines, `job["meet"]` tells of them: `address` of the first, and
    this one's `rank`. The first reports as `meeting` what is to be told to the others, which report
    `sliced` in the end, whatever became of the slice.
    """
    request = TrainingRequest.model_validate(job["request"])
    parameters, together = request.hyperparameters, {**job, "folder": str(folder)}
    if job.get("finished") or not must_launch(parameters.world):
        train(job, folder, report, stop)
    elif parameters.num_nodes == 1:
        launch(_train_together, together, parameters.devices, report, stop)
    else:
        meet = job["meet"]
        if meet["rank"] == 0:
            dataset_hash = DatasetStore(Path(job["dataset_root"])).fingerprint(request.dataset_id)
            meeting = Meeting.host(meet["address"], parameters.num_nodes)
            report("meeting", {"port": meeting.port, "dataset_hash": dataset_hash})
        else:
            meeting = Meeting(meet["address"], meet["port"], meet["rank"], parameters.num_nodes)
        silent = meet["rank"] > 0  # the first machine alone has progress to tell
        with breathing(lambda: report("progress", {})) if silent else contextlib.nullcontext():
            launch(_train_together, together, parameters.devices, report, stop, meeting=meeting)
        if meet["rank"]:
            report("sliced", {})


def _train_together(job: dict[str, Any], report: Report, stop: Callable[[], bool]) -> None:
    train(job, Path(job["folder"]), report, stop)


def train(job: dict[str, Any], folder: Path, report: Report, stop: Callable[[], bool]) -> None:
    """Train what `job["request"]` asks for.

    Args:
        job: `request` (a `TrainingRequest` as JSON), `dataset_root`, and how long a slice is:
            see `bridge.training.process.Piece`.
        folder: exists and is empty; gets checkpoints, and at last `version/model.onnx` and
            `probe.npz`.
        report: gets one `plan` (`signature`, `columns`, `target`) before training, `progress` and
            `checkpoint` (its facts) during it, and at the end `result`, or `sliced` if it is not
            trained yet.
        stop: whether the slice shall end.

    Raises:
        TrainingError: one of its subclasses.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # it praises its makers
    # Lightning calls a name that torch deprecates; of a process that is killed it is the last word.
    warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
    request = TrainingRequest.model_validate(job["request"])
    parameters = request.hyperparameters
    store = DatasetStore(Path(job["dataset_root"]))
    dataset_hash = _hash_of(store, request.dataset_id, job.get("dataset_hash"))
    sequences = architectures.takes_sequences(request.model.architecture)
    examples = open_examples(
        store, request.dataset_id, request.model, parameters, sequences=sequences
    )
    check_required(examples.task, request.model.require)
    signature = signature_of(examples, request.model.max_batch_size)
    network = _network(request, examples, sequences=sequences)
    check_variant(network, request.model.variant)
    weights = _begin(request, examples, network, job)
    report("plan", {"signature": signature.to_json(), **_made_of(examples)})

    slices = Slices(
        folder=folder,
        saved=lambda facts: report(
            "checkpoint", {**facts, "dataset_hash": dataset_hash, **weights}
        ),
        stop=stop,
        resume=Path(job["resume"]) if job.get("resume") else None,
        **{name: job[name] for name in _PIECE if name in job},
    )
    try:
        metrics = fit(
            network, examples, parameters, slices, lambda progress: report("progress", progress)
        )
    except SliceEnded:
        report("sliced", {})
        return
    seconds = metrics.pop("training_s")
    if place()[0] > 0:  # the first process of several goes on alone
        return
    with breathing(lambda: report("progress", {"stage": "exporting"}), _EXPORT_S):
        proof = _proven(Trained(network, examples, signature, metrics), request.model, folder)
    timings = {"train_s": seconds, **proof.pop("timings")}
    about = {"dataset_hash": dataset_hash, **weights, **_about(examples, parameters)}
    report("result", {**proof, **about, "training_s": seconds, "timings": timings})


def _hash_of(store: DatasetStore, dataset_id: str, before: str | None) -> str:
    """The dataset's hash.

    Args:
        store: where it lies.
        dataset_id: which.
        before: what it was when the training began; None: it begins now.

    Raises:
        DatasetError: it is another by now.
    """
    found = store.fingerprint(dataset_id)
    if before not in {None, found}:
        raise DatasetError(
            f"dataset {dataset_id!r} has changed since the training began; add what is new as "
            "another dataset, and train on that"
        )
    return found


def _proven(trained: Trained, asked: ModelConfig, folder: Path) -> dict[str, Any]:
    """Export what is good enough; returns what the result says of it."""
    check_good_enough(asked.require, trained.metrics)
    proof = prove(trained, asked, folder)
    if "variant" in proof:  # which is what callers get
        check_good_enough(asked.require, proof["variant"]["metrics"])
    return {**proof, "metrics": trained.metrics}


def _about(examples: Examples, parameters: Hyperparameters) -> dict[str, Any]:
    """What the result says of data, settings and libraries."""
    rows = len(examples.train.inputs)
    return {
        **_made_of(examples),
        "task": examples.task,
        "rows": {"train": rows, "validation": len(examples.validation.inputs)},
        "hyperparameters": _used(parameters, rows),
        "threads": torch.get_num_threads(),
        "libraries": _libraries(),
    }


def _made_of(examples: Examples) -> dict[str, Any]:
    return {"columns": list(examples.columns), "target": examples.target}


def signature_of(examples: Examples, max_batch_size: int) -> Signature:
    """What the model will take and give: raw rows; probabilities, or values."""
    datatype, shape = "FP32", examples.input_shape
    if examples.words is not None:
        datatype = "INT64"
        if examples.words.tokenizer is not None:
            datatype, shape = "BYTES", (1,)
    return Signature(
        (TensorSpec(examples.input_name, datatype, (-1, *shape)),),
        (TensorSpec(examples.output_name, "FP32", (-1, examples.outputs)),),
        max_batch_size,
        examples.labels,
    )


def _network(
    request: TrainingRequest, examples: Examples, *, sequences: bool
) -> architectures.Network:
    lightning.seed_everything(request.hyperparameters.seed, workers=True, verbose=False)
    inner = architectures.build(
        request.model.architecture,
        request.model.options,
        examples.input_shape,
        examples.outputs,
        None if examples.words is None else examples.words.vocabulary,
    )
    values = None if examples.labels else examples.train.targets
    return architectures.Network(
        inner,
        examples.train.inputs,
        values,
        multi_label=examples.task == "multi-label",
        sequences=sequences,
    )


def _begin(
    request: TrainingRequest,
    examples: Examples,
    network: architectures.Network,
    job: dict[str, Any],
) -> dict[str, Any]:
    """Load the weights that the request names; returns what the result says of it."""
    asked = request.model
    if asked.weights is None and asked.from_model is None:
        return {}
    field = "weights" if asked.from_model is None else "from_model"
    if examples.words is not None and examples.words.tokenizer is not None:
        raise InvalidTrainingRequestError(
            f"model_config.{field}: the vocabulary of text comes from the dataset, so weights that "
            "were trained on another one mean something else; send token numbers instead"
        )
    if job.get("begun") is not None:  # the checkpoint has what they became
        if asked.freeze:
            freeze_all_but_head(network.inner)
        return {"weights": job["begun"]}
    if asked.weights is not None:
        path = weights_file(Path(job["dataset_root"]), asked.weights)
        return {"weights": begin_with(network.inner, path, freeze=asked.freeze)}
    ancestor = job["ancestor"]
    begun = begin_with(network.inner, Path(ancestor["path"]), freeze=asked.freeze, field=FIELD)
    del begun["file"]
    return {"weights": {"model": ancestor["model"], "version": ancestor["version"], **begun}}


def _used(parameters: Hyperparameters, rows: int) -> dict[str, Any]:
    return {**parameters.model_dump(mode="json"), "batch_size": parameters.batch_size_for(rows)}


def _libraries() -> dict[str, str]:
    return {name: _version(name) for name in _LIBRARIES}


def _version(name: str) -> str:
    for build in (name, f"{name}-gpu"):  # ONNX Runtime has two
        with contextlib.suppress(PackageNotFoundError):
            return version(build)
    return "unknown"  # run from a checkout that was not installed
