"""From a trained network to files that are proven to compute the same. Training process only.

Enters: the network, its rows, and which variant is wanted. Leaves: `version/model.onnx`, and
`probe.npz`: real rows and the answers that Triton has to give.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bridge.errors import ExportError
from bridge.repository import Signature
from bridge.tensors import Array
from bridge.training.architectures import Network
from bridge.training.examples import Examples
from bridge.training.export import (
    MODEL_FILE,
    agreement,
    compare,
    export,
    open_model,
)
from bridge.training.fit import answers
from bridge.training.judging import KEPT, ROUNDING, judge, lost
from bridge.training.pretrained import save_weights
from bridge.training.probe import save_probe
from bridge.training.published import WEIGHTS
from bridge.training.request import ModelConfig, Variant
from bridge.training.streams import Inputs
from bridge.training.tolerances import tolerance_for
from bridge.training.variants import TOLERANCES, make_variant

_PROBE_ROWS = 64
_PIECE = 256  # rows at a time


@dataclass(frozen=True, slots=True)
class Trained:
    """What there is to prove."""

    network: Network
    """On the CPU, in eval mode."""
    examples: Examples
    signature: Signature
    metrics: dict[str, float]
    """Of the network on all validation rows."""


def prove(trained: Trained, model: ModelConfig, folder: Path) -> dict[str, Any]:
    """Export the network, or the variant that was asked for, and keep rows to try it by.

    Args:
        trained: see there.
        model: which variant, and what it may lose.
        folder: gets `version/model.onnx`, and `probe.npz`.

    Returns:
        `parity` of the float32 export (see `compare`), and of a variant `variant`: `kind`,
        `metrics` of it on all validation rows, `metric` (which of them counts), `accuracy_loss`,
        `max_accuracy_loss`, `rows`, `max_abs_difference` to torch, `class_agreement` (of classes),
        `tolerance` (for Triton), `bytes` and `fp32_bytes`. Of either `timings`: `export_s` and
        `compare_s`. And `kept_weights`: see `save_weights`.

    Raises:
        ExportError: it cannot be exported, or computes something else, or loses too much.
    """
    version = folder / "version"
    version.mkdir()
    kept = {"kept_weights": save_weights(trained.network.inner, version / WEIGHTS)}
    if model.variant != "fp32":
        return _prove_variant(trained, model, folder, version / MODEL_FILE) | kept
    words = trained.examples.words
    rows, asked = _probe_rows(trained.examples)
    tokenizer = None if words is None else words.tokenizer
    began = time.monotonic()
    path = export(trained.network, rows, _names(trained.signature), version, tokenizer)
    exported = time.monotonic()
    parity, wanted = compare(trained.network, path, rows, trained.signature.max_batch_size, asked)
    save_probe(folder / "probe.npz", asked, wanted)
    return {"parity": parity, "timings": _timings(began, exported), **kept}


def _prove_variant(
    trained: Trained, model: ModelConfig, folder: Path, path: Path
) -> dict[str, Any]:
    network, examples = trained.network, trained.examples
    rows, asked = _probe_rows(examples)
    plain = folder / "exported"
    plain.mkdir()
    began = time.monotonic()
    fp32 = export(network, rows, _names(trained.signature), plain)
    parity, _ = compare(network, fp32, rows, trained.signature.max_batch_size)
    make_variant(model.variant, fp32, path, examples.train.inputs)
    exported = time.monotonic()
    if examples.words is not None and examples.words.tokenizer is not None:
        for each in (fp32, path):
            examples.words.tokenizer.put_before(each)
    found = _ask(path, _asked(examples))
    measured = _measure(trained, found, model.variant)
    _check_loss(trained, measured, model)
    save_probe(folder / "probe.npz", asked, found[: len(rows)])
    sizes = {"bytes": path.stat().st_size, "fp32_bytes": fp32.stat().st_size}
    return {
        "parity": parity,
        "variant": {**measured, "max_accuracy_loss": model.accuracy_loss_limit, **sizes},
        "timings": _timings(began, exported),
    }


def _timings(began: float, exported: float) -> dict[str, float]:
    compared = time.monotonic()
    return {"export_s": round(exported - began, 3), "compare_s": round(compared - exported, 3)}


def _measure(trained: Trained, found: Array, variant: Variant) -> dict[str, Any]:
    """How good a variant's answers [rows, outputs] to all validation rows are."""
    rows, task = trained.examples.validation, trained.network.task
    strange = int((~np.isfinite(found)).any(axis=1).sum())
    if strange:
        raise ExportError(
            f"the {variant} variant answers {strange} of {len(found)} validation rows with NaN or "
            f'infinity: numbers inside the network are too large for it; use "fp32"'
        )
    wanted = torch.cat(list(answers(trained.network, rows.inputs))).numpy()
    metrics = judge(task, torch.from_numpy(found), torch.from_numpy(rows.targets))
    measured: dict[str, Any] = {
        "kind": variant,
        "metrics": metrics,
        "metric": KEPT[task],
        "accuracy_loss": lost(task, trained.metrics, metrics),
        "rows": len(found),
        "max_abs_difference": float(np.abs(found - wanted).max()),
        "tolerance": tolerance_for(found, TOLERANCES[variant]),
    }
    same = {} if task == "regression" else {"class_agreement": agreement(task, found, wanted)}
    return measured | same


def _check_loss(trained: Trained, measured: dict[str, Any], model: ModelConfig) -> None:
    loss, limit, name = measured["accuracy_loss"], model.accuracy_loss_limit, measured["metric"]
    if loss <= limit + ROUNDING:
        return
    unit = " of it" if name == "rmse" else ""
    others = '"fp32"' if model.variant == "fp16" else '"fp16" or "fp32"'
    raise ExportError(
        f"the {model.variant} variant has {name} {measured['metrics'][name]:.6g} on "
        f"{measured['rows']} validation rows, where the trained network has "
        f"{trained.metrics[name]:.6g}: it loses {loss:.4g}{unit}, more than "
        f"model_config.max_accuracy_loss, {limit:g}; nothing was published. Allow more, or use "
        f"variant {others}"
    )


def _ask(path: Path, rows: Inputs) -> Array:
    ask = open_model(path)
    starts = range(0, len(rows), _PIECE)
    return np.concatenate([ask(rows[start : start + _PIECE]) for start in starts])


def _asked(examples: Examples) -> Inputs:
    """Validation rows as callers send them."""
    words = examples.words
    return words.texts[1] if words and words.texts else examples.validation.inputs


def _probe_rows(examples: Examples) -> tuple[Array, Array]:
    """Some validation rows, as the network takes them and as callers send them."""
    return examples.validation.inputs[:_PROBE_ROWS], _asked(examples)[:_PROBE_ROWS]


def _names(signature: Signature) -> tuple[str, str]:
    return signature.inputs[0].name, signature.outputs[0].name
