"""From text to token numbers, as a piece of ONNX that travels in front of the exported network.

Enters: texts to learn from. Leaves: a `Tokenizer`. Training and serving run the very same graph, so
they cannot come to differ. Words are runs of letters, digits and underscores in lower case;
every other sign that is not a space is a word by itself.

Opset 18 and `ai.onnx.ml` 3, and from ONNX Runtime's own operators `com.microsoft.Tokenizer`, which
its CPU builds have, NVIDIA's containers' too. The locale is C.UTF-8, which glibc brings along.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from bridge.tensors import Array

PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2
"""Numbers of what fills a short text, of a word that is not known, and of the commonest word."""

OPSET, IR_VERSION = 18, 10

_OPSETS = {"": OPSET, "ai.onnx.ml": 3, "com.microsoft": 1}
_WORD = r"[\p{L}\p{M}\p{N}_]+|[^\p{L}\p{M}\p{N}_\s]"
_IDS = "tokenizer.ids"
_PIECE = 1024  # texts at a time
_LONGEST = 256


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A vocabulary, commonest word first, and how many words of a text count."""

    words: tuple[str, ...]
    length: int

    @classmethod
    def learn(cls, texts: Array, most: int, length: int | None) -> "Tokenizer":
        """Take the vocabulary from texts.

        Args:
            texts: `str` objects [rows].
            most: words to know.
            length: words of a text that count; None: as the longest text has, 256 at most.
        """
        counts: Counter[str] = Counter()
        longest = 1
        for tokens in _run(_splitting("text"), texts):
            longest = max(longest, tokens.shape[1])
            counts.update(tokens.reshape(-1).tolist())
        del counts[""]  # what fills a short text
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(ordered[:most]), length or min(longest, _LONGEST))

    @property
    def vocabulary(self) -> int:
        """Number of tokens, with padding and the unknown word."""
        return FIRST_WORD + len(self.words)

    def ids(self, texts: Array) -> Array:
        """Token numbers int64 [rows, length] of `str` objects [rows]."""
        return np.concatenate(list(_run(self._model("text"), texts)))

    def put_before(self, path: Path) -> None:
        """Have an exported network take text instead of token numbers, under the same name.

        Args:
            path: a model whose only input is int64 [batch, length]; it is written anew, and takes
                strings [batch, 1].
        """
        network = onnx.load(path, load_external_data=False)
        name = network.graph.input[0].name
        network.graph.input[0].name = _IDS
        for node in network.graph.node:
            node.input[:] = [_IDS if given == name else given for given in node.input]
        first = self._model(name)
        first.ir_version = network.ir_version
        whole = onnx.compose.merge_models(first, network, io_map=[(_IDS, _IDS)])
        onnx.save(whole, path)

    def _model(self, name: str) -> onnx.ModelProto:
        numbers = range(FIRST_WORD, self.vocabulary)
        nodes = [
            *_split_nodes(name),
            helper.make_node(
                "LabelEncoder",
                ["tokenizer.words"],
                ["tokenizer.numbers"],
                domain="ai.onnx.ml",
                keys_strings=["", *self.words],
                values_int64s=[PADDING, *numbers],
                default_int64=UNKNOWN,
            ),
            # As long as could be wanted, then cut.
            helper.make_node("Pad", ["tokenizer.numbers", "tokenizer.pads"], ["tokenizer.long"]),
            helper.make_node(
                "Slice",
                ["tokenizer.long", "tokenizer.from", "tokenizer.to", "tokenizer.axis"],
                [_IDS],
            ),
        ]
        constants = {
            "pads": [0, 0, 0, self.length],
            "from": [0],
            "to": [self.length],
            "axis": [1],
        }
        output = helper.make_tensor_value_info(_IDS, TensorProto.INT64, ["batch", self.length])
        return _make_model(name, nodes, constants, output)


def _splitting(name: str) -> onnx.ModelProto:
    words = helper.make_tensor_value_info(
        "tokenizer.words", TensorProto.STRING, ["batch", "tokenizer.most"]
    )
    return _make_model(name, _split_nodes(name), {}, words)


def _split_nodes(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Reshape", [name, "tokenizer.rows"], ["tokenizer.texts"]),
        helper.make_node(
            "StringNormalizer",
            ["tokenizer.texts"],
            ["tokenizer.lower"],
            case_change_action="LOWER",
            locale="C.UTF-8",
        ),
        helper.make_node(
            "Tokenizer",
            ["tokenizer.lower"],
            ["tokenizer.words"],
            domain="com.microsoft",
            tokenexp=_WORD,
            pad_value="",
            mark=0,
            mincharnum=1,
        ),
    ]


def _make_model(
    name: str, nodes: list[onnx.NodeProto], constants: dict[str, list[int]], output: Any
) -> onnx.ModelProto:
    initializers = [
        helper.make_tensor(f"tokenizer.{key}", TensorProto.INT64, [len(values)], values)
        for key, values in {"rows": [-1], **constants}.items()
    ]
    given = helper.make_tensor_value_info(name, TensorProto.STRING, ["batch", 1])
    graph = helper.make_graph(nodes, "tokenizer", [given], [output], initializers)
    opsets = [helper.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _run(model: onnx.ModelProto, texts: Array) -> Iterator[Array]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    for start in range(0, len(texts), _PIECE):
        yield session.run(None, {name: texts[start : start + _PIECE, None]})[0]
