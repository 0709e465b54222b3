"""Columns of tokens and of text, for architectures that take sequences.

Enters: the one input column of each split. Leaves: `Words`, or None where the column holds numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from bridge.errors import DatasetError
from bridge.tensors import Array
from bridge.training import tables
from bridge.training.request import TextConfig
from bridge.training.tokenizer import Tokenizer

_TOKENS = 2  # dimensions: rows, length
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Words:
    """The token numbers of each split that was given, in order."""

    arrays: list[Array]
    """int64 [rows, length]; 0 is padding."""
    vocabulary: int
    """Every number is below this. Of token columns the last one is for tokens never seen."""
    tokenizer: Tokenizer | None
    """Makes them of text; None: callers send token numbers."""
    texts: list[Array]
    """`str` objects [rows, 1] of each split; empty where there is no tokenizer."""


def read_words(
    splits: Sequence[datasets.Dataset], columns: tuple[str, ...], text: TextConfig
) -> Words | None:
    """Read the one input column, train first; None if it holds numbers, or there are several.

    Text is one string in each row, tokens are whole numbers in rows [length].

    Raises:
        DatasetError: negative tokens, too many of them, or text without a word.
    """
    if len(columns) != 1:
        return None
    name = columns[0]
    raw = [tables.column_array(split, name) for split in splits]
    if all(column.dtype.kind == "O" and column.ndim == 1 for column in raw):
        return _text(name, raw, text)
    if all(column.dtype.kind in "iu" and column.ndim == _TOKENS for column in raw):
        return _tokens(name, raw)
    return None


def _text(name: str, raw: list[Array], text: TextConfig) -> Words:
    tokenizer = Tokenizer.learn(raw[0], text.vocabulary, text.length)
    if not tokenizer.words:
        raise DatasetError(f"column {name!r} holds no words in train")
    arrays = [tokenizer.ids(column) for column in raw]
    return Words(arrays, tokenizer.vocabulary, tokenizer, [column[:, None] for column in raw])


def _tokens(name: str, raw: list[Array]) -> Words:
    least, most = min(int(column.min()) for column in raw), int(raw[0].max())
    if least < 0 or most >= _MOST:
        raise DatasetError(
            f"column {name!r} holds whole numbers from {least} to {most}, which are taken for "
            f"tokens: they must be 0 (padding) to {_MOST - 1:,}. Store numbers to compute with as "
            f"fractions"
        )
    last = most + 1
    return Words([np.minimum(column, last).astype(np.int64) for column in raw], last + 1, None, [])
