"""What a model takes and gives, and how Triton's `config.pbtxt` says it. Pure: no I/O.

Several columns become one input, so that the signature does not tell which they are, nor in which
order; cards do.
"""

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.errors import PublishError
from bridge.names import check_name
from bridge.tensors import DTYPES, TensorSpec

CONFIG = "config.pbtxt"
LABELS = "labels.txt"

_SHOWN_COLUMNS = 100

# Triton's Python-based backend makes two by default, each a process with the model in memory.
# No kind: a GPU is used where there is one.
_ONE_INSTANCE = "instance_group [ { count: 1 } ]"

# Of protocol buffers' text format, what may hold a brace or the word `name` without meaning it.
_TOKEN = re.compile(
    r"""(?P<name>(?<![\w.])name\s*:\s*("(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')[;,]?)"""
    r"""|(?P<open>[{<])|(?P<close>[}>])"""
    r"""|#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model's callers rely on; it stays the same from version to version.

    Shapes include the batch dimension (-1 first) where `max_batch_size` is above 0. `labels`
    name the elements of the first output, in order: callers rely on that order too.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The signature as JSON holds it; `from_json` reads it back."""
        return {
            "inputs": [_spec_json(spec) for spec in self.inputs],
            "outputs": [_spec_json(spec) for spec in self.outputs],
            "max_batch_size": self.max_batch_size,
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Signature":
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError: something else wrote it.
        """
        return cls(
            tuple(_spec_of(spec) for spec in value["inputs"]),
            tuple(_spec_of(spec) for spec in value["outputs"]),
            int(value["max_batch_size"]),
            tuple(value["labels"]),
        )

    def __str__(self) -> str:
        inputs = ", ".join(f"{s.name} {s.datatype}{list(s.shape)}" for s in self.inputs)
        outputs = ", ".join(f"{s.name} {s.datatype}{list(s.shape)}" for s in self.outputs)
        labels = f", labels {list(self.labels)}" if self.labels else ""
        return f"({inputs}) -> ({outputs}), max_batch_size {self.max_batch_size}{labels}"


def check_columns(model: str, present: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Make sure that callers' numbers go on to mean what they mean.

    Args:
        model: its name.
        present: the card of a version: `columns` (a list, in their order) and `target`; cards of
            models that were not trained here, and of older ones, have neither.
        wanted: the same of one that would join it.

    Raises:
        PublishError: they are others, or in another order.
    """
    show = reprlib.Repr()
    show.maxlist = show.maxstring = _SHOWN_COLUMNS
    for name, verb in (("columns", "takes the columns"), ("target", "predicts")):
        if name in present and name in wanted and present[name] != wanted[name]:
            order = " in this order" if name == "columns" else ""
            field = "inputs" if name == "columns" else "targets"
            raise PublishError(
                f"model {model!r} {verb} {show.repr(present[name])}{order}, and the new version "
                f"would have {show.repr(wanted[name])}; callers of {model!r} rely on the former: "
                f"name the same, in the same order, in model_config.{field}, or choose another "
                f"model_id"
            )


def render_config(signature: Signature) -> str:
    """`config.pbtxt` of a model. It names no model, so that the folder can bear any name.

    Raises:
        InvalidNameError: a tensor's name could end its quotes.
    """
    batched = signature.max_batch_size > 0
    inputs = [_block("input", spec, batched=batched) for spec in signature.inputs]
    outputs = [
        _block("output", spec, batched=batched, labelled=index == 0 and bool(signature.labels))
        for index, spec in enumerate(signature.outputs)
    ]
    lines = ['backend: "onnxruntime"', f"max_batch_size: {signature.max_batch_size}"]
    lines += inputs + outputs + [_ONE_INSTANCE]
    lines += ["dynamic_batching { }"] if batched else []
    return "\n".join(lines) + "\n"


def nameless(config: str) -> str:
    """A `config.pbtxt` without the model's own name, so that another folder can bear it.

    Names of inputs, accelerators and the like stay.
    """
    depth = 0

    def keep(match: re.Match[str]) -> str:
        nonlocal depth
        depth += bool(match["open"]) - bool(match["close"])
        return "" if match["name"] and not depth else match[0]

    return _TOKEN.sub(keep, config)


def _block(kind: str, spec: TensorSpec, *, batched: bool, labelled: bool = False) -> str:
    # Triton adds the batch dimension itself.
    dims = ", ".join(str(size) for size in (spec.shape[1:] if batched else spec.shape))
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    fields = [
        f'name: "{check_name("tensor", spec.name)}"',
        f"data_type: TYPE_{datatype}",
        f"dims: [ {dims} ]",
        *([f'label_filename: "{LABELS}"'] if labelled else []),
    ]
    return f"{kind} {{\n" + "".join(f"  {field}\n" for field in fields) + "}"


def _spec_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _spec_of(value: Mapping[str, Any]) -> TensorSpec:
    if value["datatype"] not in DTYPES:
        raise TypeError(f"unknown datatype {value['datatype']!r}")
    return TensorSpec(str(value["name"]), value["datatype"], tuple(value["shape"]))
