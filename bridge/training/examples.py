"""From columns to what a network trains on: float inputs and class numbers or values.

Enters: a dataset's splits and the caller's choice of columns. Leaves: `Examples`, checked: every
value finite, every class known to both splits. No torch.
"""

from dataclasses import dataclass

import datasets
import numpy as np

from bridge.errors import DatasetError
from bridge.names import check_name
from bridge.tensors import Array
from bridge.training import tables
from bridge.training.datasets import Splits
from bridge.training.request import TARGETS, ModelConfig, Task
from bridge.training.streams import Inputs, inputs_of, not_finite

_FEWEST_ROWS = 10


@dataclass(frozen=True, slots=True)
class Rows:
    """One split."""

    inputs: Inputs
    """float32 [rows, *input_shape]; in memory, or read when they are asked for."""
    targets: Array
    """Classification: int64 [rows], class numbers. Regression: float32 [rows, outputs]."""


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
    """Name of each class number; empty for regression."""

    @property
    def input_name(self) -> str:
        """The model's input: the column's name, or "features" for several side by side."""
        return self.columns[0] if len(self.columns) == 1 else "features"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def outputs(self) -> int:
        """Number of classes, or of values to predict."""
        return len(self.labels) or int(self.train.targets.shape[1])


def prepare(splits: Splits, model: ModelConfig) -> Examples:
    """Turn the splits into arrays.

    Raises:
        DatasetError: a column is missing, not numeric, ragged or holds NaN; too few rows; fewer
            than two classes. Each names the column and what to do.
    """
    names = splits.train.column_names
    target = _target(names, model)
    columns = tuple(model.columns or [name for name in names if name != target])
    if not columns:
        raise DatasetError(f"there is no column beside the target {target!r} to learn from")
    if len(columns) == 1:
        check_name("the input column's name, which becomes the model's input,", columns[0])
    if len(splits.train) < _FEWEST_ROWS:
        raise DatasetError(
            f"{len(splits.train)} rows to train on are too few; at least {_FEWEST_ROWS} are needed"
        )
    inputs = [inputs_of(split, columns) for split in (splits.train, splits.validation)]
    if inputs[0].shape[1:] != inputs[1].shape[1:]:
        raise DatasetError(
            f"rows of {columns} have shape {list(inputs[0].shape[1:])} in train and "
            f"{list(inputs[1].shape[1:])} in validation"
        )
    raw = [tables.column_array(split, target) for split in (splits.train, splits.validation)]
    task = model.task or _task_of(raw[0])
    labels: tuple[str, ...] = ()
    if task == "regression":
        targets = [_values(target, column) for column in raw]
    else:
        targets, labels = _classes(target, raw, tables.class_names(splits.train, target))
    train, validation = (Rows(x, y) for x, y in zip(inputs, targets, strict=True))
    return Examples(train, validation, task, columns, target, labels)


def classes_of(rows: datasets.Dataset, model: ModelConfig) -> Array | None:
    """The target's class of each row; None if values are predicted, or `prepare` will complain."""
    try:
        column = tables.column_array(rows, _target(rows.column_names, model))
    except DatasetError:
        return None
    task = model.task or _task_of(column)
    return column if task == "classification" else None


def _task_of(target: Array) -> Task:
    return "regression" if target.dtype.kind == "f" else "classification"


def _target(names: list[str], model: ModelConfig) -> str:
    if model.target is not None:
        if model.target not in names:  # before its absence makes another column look wrong
            raise DatasetError(
                f"there is no target column {model.target!r}; there are "
                f"{', '.join(map(repr, names))}"
            )
        return model.target
    found = [name for name in TARGETS if name in names]
    if len(found) != 1:
        raise DatasetError(
            f"cannot tell which column is the target: give model_config.target (`mlbridge train`: "
            f"-c target=NAME), one of {', '.join(map(repr, names))}"
        )
    return found[0]


def _numbers(name: str, column: Array) -> Array:
    if column.dtype.kind == "O":
        raise DatasetError(f"column {name!r} holds text, not numbers; turn the text into numbers")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, found below
        numbers = column.astype(np.float32)
    bad = ~np.isfinite(numbers).reshape(len(numbers), -1).all(axis=1)
    if bad.any():
        raise not_finite(name, int(bad.sum()), len(bad), int(bad.argmax()))
    return numbers


def _values(target: str, column: Array) -> Array:
    values = _numbers(target, column)
    return values.reshape(len(values), -1)


def _classes(
    target: str, raw: list[Array], names: list[str] | None
) -> tuple[list[Array], tuple[str, ...]]:
    for column in raw:
        if column.ndim != 1:
            raise DatasetError(f"target {target!r} must hold one class for each row")
        if column.dtype.kind == "f" and not np.equal(np.mod(column, 1), 0).all():
            raise DatasetError(
                f"target {target!r} holds fractions, which are no classes; set model_config.task "
                f'to "regression" to predict values'
            )
    known = np.unique(raw[0])
    if len(known) < 2:  # noqa: PLR2004
        only = _shown(known.tolist()[0], names)
        raise DatasetError(
            f"target {target!r} has only the class {only} in train; at least two are needed"
        )
    if len(known) > len(raw[0]) // 2:
        raise DatasetError(
            f"target {target!r} has {len(known)} classes in {len(raw[0])} rows; is it a value to "
            f'predict (model_config.task "regression"), or the wrong column?'
        )
    strange = np.setdiff1d(raw[1], known)
    if len(strange):
        shown = ", ".join(_shown(value, names) for value in strange[:5].tolist())
        raise DatasetError(f"target {target!r}: validation has classes that train has not: {shown}")
    labels = tuple(tables.class_label(value, names) for value in known.tolist())
    for label in labels:
        if not label or not label.isprintable():
            raise DatasetError(
                f"target {target!r}: class {label!r} cannot be a label; use printable text"
            )
    return [np.searchsorted(known, column).astype(np.int64) for column in raw], labels


def _shown(value: object, names: list[str] | None) -> str:
    return repr(value if names is None else tables.class_label(value, names))
