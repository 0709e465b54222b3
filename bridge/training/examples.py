"""From columns to what a network trains on: float inputs and class numbers or values.

Enters: a dataset's splits and the caller's choice of columns. Leaves: `Examples`, checked: every
value finite, every class known to both splits. No torch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.errors import DatasetError
from bridge.names import check_name
from bridge.tensors import Array
from bridge.training.datasets import Splits
from bridge.training.request import ModelConfig, Task
from bridge.training.streams import Inputs, inputs_of
from bridge.training.targets import read_targets, target_columns
from bridge.training.words import Words, read_words

_FEWEST_ROWS = 10
# What pandas calls row numbers: in csv, in parquet and arrow, and when it has read such a csv.
_ROW_NUMBERS = re.compile(r"|__index_level_\d+__|Unnamed: 0(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Rows:
    """One split."""

    inputs: Inputs
    """float32 [rows, *input_shape], in memory, or read when they are asked for; or tokens, int64
    [rows, length]."""
    targets: Array
    """Classification: int64 [rows], class numbers. Else float32 [rows, outputs]: values, or 1
    where a label is set and 0 where it is not."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Everything that training needs to know of the data."""

    train: Rows
    validation: Rows
    task: Task
    columns: tuple[str, ...]
    """The columns that the inputs were made of, in order."""
    target: str
    labels: tuple[str, ...]
    """Name of each class number or label; empty for regression."""
    words: Words | None = None
    """Where the inputs are tokens or text."""

    @property
    def input_name(self) -> str:
        """The model's input: the column's name, or "features" for several side by side."""
        return self.columns[0] if len(self.columns) == 1 else "features"

    @property
    def output_name(self) -> str:
        """The model's output."""
        return "probabilities" if self.labels else "values"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def outputs(self) -> int:
        """Number of classes, labels, or values to predict."""
        return len(self.labels) or int(self.train.targets.shape[1])


def prepare(splits: Splits, model: ModelConfig, *, sequences: bool = False) -> Examples:
    """Turn the splits into arrays.

    Args:
        splits: of the dataset.
        model: the caller's choice of columns and task.
        sequences: the architecture takes tokens and text.

    Raises:
        DatasetError: a column is missing, not numeric, ragged or holds NaN; too few rows; fewer
            than two classes; the input would be called what the output is; one that nobody named
            as an input is most likely row numbers. Each names the column and what to do.
    """
    names = splits.train.column_names
    target = target_columns(names, model)
    columns = tuple(model.columns or _others(names, target))
    if not columns:
        raise DatasetError(
            f"there is no column beside the target {', '.join(map(repr, target))} to learn from"
        )
    if len(columns) == 1:
        check_name("the input column's name, which becomes the model's input,", columns[0])
    if len(splits.train) < _FEWEST_ROWS:
        raise DatasetError(
            f"{len(splits.train)} rows to train on are too few; at least {_FEWEST_ROWS} are needed"
        )
    both = (splits.train, splits.validation)
    words = read_words(both, columns, model.text) if sequences else None
    inputs: Sequence[Inputs] = (
        words.arrays if words else [inputs_of(split, columns) for split in both]
    )
    if inputs[0].shape[1:] != inputs[1].shape[1:]:
        raise DatasetError(
            f"rows of {columns} have shape {list(inputs[0].shape[1:])} in train and "
            f"{list(inputs[1].shape[1:])} in validation"
        )
    found = read_targets(both, model)
    train, validation = (Rows(x, y) for x, y in zip(inputs, found.arrays, strict=True))
    made = Examples(train, validation, found.task, columns, ", ".join(target), found.labels, words)
    if made.input_name == made.output_name:  # which no model may have
        raise DatasetError(
            f"column {made.input_name!r} has the name of the model's output; rename the column"
        )
    return made


def _others(names: list[str], target: Sequence[str]) -> list[str]:
    """All columns but the target; row numbers tell it where rows are sorted, and mean nothing."""
    found = [name for name in names if name not in target]
    for name in found:
        if _ROW_NUMBERS.fullmatch(name):
            raise DatasetError(
                f"column {name!r} has no name of its own: it is most likely the row numbers that "
                f"pandas wrote; write the file with `index=False`, or name the columns to learn "
                f"from in model_config.inputs"
            )
    return found
