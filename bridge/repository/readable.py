"""`card.md`: what `card.json` holds, for people to read. Pure: no I/O.

Enters: a model's name and its card. Leaves: Markdown; a part that a card lacks (older ones do) is
left out.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bridge.tensors import DTYPES

_MOST_SHOWN = 50  # labels or columns; card.json has all of them
_LONGEST = 200  # characters of one value
_SIGNIFICANT = 6


def render_card(model: str, card: Mapping[str, Any]) -> str:
    """The card as Markdown.

    Args:
        model: its name in Triton.
        card: what `card.json` holds.
    """
    parts = [f"# {_plain(model)}", _summary(card)]
    for title, render in _SECTIONS.items():
        text = render(model, card)
        if text:
            parts += [f"## {title}", text]
    return "\n\n".join(parts) + "\n"


def _summary(card: Mapping[str, Any]) -> str:
    variant = card.get("variant", {}).get("kind", "fp32")
    architecture = card.get("model", {}).get("architecture", "unknown")
    task = card.get("task", "an unknown task")
    return (
        f"A network of architecture {_code(architecture)} for {task}, as ONNX in "
        f"{variant.upper()}; made by task {_code(card.get('task_id', 'unknown'))}, "
        f"published {card.get('published', 'at an unknown time')}."
    )


def _data(_: str, card: Mapping[str, Any]) -> str:
    rows = card.get("rows", {})
    return _table(
        ("what", "value"),
        {
            "dataset": card.get("dataset_id"),
            "hash": card.get("dataset_hash"),
            "rows to train on": rows.get("train"),
            "rows to validate on": rows.get("validation"),
            "inputs from": card.get("columns"),
            "target": card.get("target"),
        }.items(),
    )


def _training(_: str, card: Mapping[str, Any]) -> str:
    asked = {f"model_config.{name}": value for name, value in card.get("model", {}).items()}
    used = {
        "seconds": card.get("training_s", card.get("duration_s")),
        "slices": card.get("slices"),
        "begun with": card.get("weights"),
        "weights kept, to go on from": card.get("kept_weights"),
    }
    parts = card.get("hyperparameters", {})
    return _table(("parameter", "value"), [*parts.items(), *asked.items(), *used.items()])


def _metrics(_: str, card: Mapping[str, Any]) -> str:
    """On validation rows; a variant's beside those of what was trained."""
    trained, variant = card.get("metrics", {}), card.get("variant")
    if variant is None:
        return _table(("metric", "value"), trained.items())
    rows = [(name, value, variant["metrics"].get(name)) for name, value in trained.items()]
    return _table(("metric", "trained, FP32", f"served, {variant['kind'].upper()}"), rows)


def _parity(_: str, card: Mapping[str, Any]) -> str:
    return _table(("of the FP32 export to torch", "value"), card.get("parity", {}).items())


def _variant(_: str, card: Mapping[str, Any]) -> str:
    told = {name: value for name, value in card.get("variant", {}).items() if name != "metrics"}
    return _table(("of the variant", "value"), told.items())


def _libraries(_: str, card: Mapping[str, Any]) -> str:
    return _table(("library", "version"), card.get("libraries", {}).items())


def _call(model: str, card: Mapping[str, Any]) -> str:
    signature = card.get("signature")
    if not signature:
        return ""
    rows = [
        (kind, spec["name"], spec["datatype"], spec["shape"])
        for kind in ("inputs", "outputs")
        for spec in signature[kind]
    ]
    example = ", ".join(f'"{spec["name"]}": {_example(spec)}' for spec in signature["inputs"])
    code = f"""```python
async with BridgeClient() as client:
    result = await client.infer("{model}", {{{example}}})
```"""
    parts = [
        _table(("", "name", "datatype", "shape"), rows),
        f"The first dimension is the batch, of 1 to {signature['max_batch_size']} rows.",
        "From Python, one row to try it with:",
        code,
        "Or as a message: task `ml_inference`, with the model's name and the inputs by name.",
    ]
    if signature["labels"]:
        parts.append(f"Labels, in the order of the output: {_some(signature['labels'])}.")
    return "\n\n".join(part for part in parts if part)


_SECTIONS: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
    "How to call it": _call,
    "Data": _data,
    "Metrics": _metrics,
    "Parity": _parity,
    "Variant": _variant,
    "Training": _training,
    "Libraries": _libraries,
}


def _example(spec: Mapping[str, Any]) -> str:
    """One row as Python: a text, or zeros."""
    if spec["datatype"] == "BYTES":
        return 'np.array([["..."]], dtype=object)'
    shape = tuple(max(1, size) for size in spec["shape"])
    return f'np.zeros({shape}, "{DTYPES[spec["datatype"]]}")'


def _table(names: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [" | ".join(_cell(value) for value in row) for row in rows if row[-1] is not None]
    if not lines:
        return ""
    head = [" | ".join(names), " | ".join("---" for _ in names)]
    return "\n".join(f"| {line} |" for line in [*head, *lines])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.{_SIGNIFICANT}g}"
    if isinstance(value, list) and len(value) > _MOST_SHOWN:
        return _some(value)
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    return _plain(value)


def _some(values: list[Any]) -> str:
    shown = ", ".join(_code(value) for value in values[:_MOST_SHOWN])
    more = len(values) - _MOST_SHOWN
    return f"{shown}, and {more} more in card.json" if more > 0 else shown


def _code(value: Any) -> str:
    return f"`{_short(value).replace('`', chr(39))}`"


def _plain(value: Any) -> str:
    """Text that means nothing to Markdown or HTML: names and labels are anybody's."""
    text = _short(value)
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return text


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
