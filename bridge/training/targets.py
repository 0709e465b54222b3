"""What a network shall answer: class numbers, values, or which of several labels are set. No torch.

Enters: a dataset's splits and the caller's choice of target and task. Leaves: `Targets`, checked:
every value finite, every class known to both splits, every label printable.
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from bridge.errors import DatasetError
from bridge.tensors import Array
from bridge.training import tables
from bridge.training.request import TARGETS, ModelConfig, Task
from bridge.training.streams import not_finite

_FLAGS = 2  # dimensions: rows, labels
_SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True)
class Targets:
    """The targets of each split that was given, in order."""

    task: Task
    arrays: list[Array]
    """Classification: int64 [rows], class numbers. Else float32 [rows, outputs]: values, or 1
    where a label is set and 0 where it is not."""
    labels: tuple[str, ...]
    """Name of each class number or label; empty for regression."""


def target_columns(names: list[str], model: ModelConfig) -> tuple[str, ...]:
    """The columns that hold the target.

    Raises:
        DatasetError: they are missing, or nobody can tell which they are.
    """
    given = model.targets or ([] if model.target is None else [model.target])
    if given:
        for name in given:
            if name not in names:  # before its absence makes another column look wrong
                raise DatasetError(
                    f"there is no target column {name!r}; there are {', '.join(map(repr, names))}"
                )
        return tuple(given)
    found = [name for name in TARGETS if name in names]
    if len(found) != 1:
        raise DatasetError(
            f"cannot tell which column is the target: give model_config.target (`mlbridge train`: "
            f"-c target=NAME), one of {', '.join(map(repr, names))}"
        )
    return (found[0],)


def read_targets(splits: Sequence[datasets.Dataset], model: ModelConfig) -> Targets:
    """Read the target of each split, train first.

    Raises:
        DatasetError: a column is missing, or does not suit the task, or names its classes
            differently in another split.
    """
    columns = target_columns(splits[0].column_names, model)
    name = ", ".join(columns)
    raw = [_column(split, columns) for split in splits]
    _check_names(splits, columns)
    task = model.task or _task_of(raw[0])
    if task == "regression":
        return Targets(task, [_values(name, column) for column in raw], ())
    if task == "multi-label":
        arrays = [_flags(name, column) for column in raw]
        count = arrays[0].shape[1]
        if any(array.shape[1] != count for array in arrays):
            raise DatasetError(f"target {name!r} has another number of labels in validation")
        labels = columns if len(columns) > 1 else tuple(map(str, range(count)))
    else:
        names = tables.class_names(splits[0], name) if len(columns) == 1 else None
        arrays, labels = _classes(name, raw, names)
    for label in labels:
        if not label or not label.isprintable():
            raise DatasetError(
                f"target {name!r}: class {label!r} cannot be a label; use printable text"
            )
    return Targets(task, arrays, labels)


def classes_of(rows: datasets.Dataset, model: ModelConfig) -> Array | None:
    """The target's class of each row; None if there is not one, or `prepare` will complain."""
    try:
        column = _column(rows, target_columns(rows.column_names, model))
    except DatasetError:
        return None
    task = model.task or _task_of(column)
    return column if task == "classification" else None


def finite_numbers(name: str, column: Array) -> Array:
    """A target's values as float32.

    Raises:
        DatasetError: it holds text, NaN, or what float32 cannot.
    """
    if column.dtype.kind == "O":
        raise DatasetError(
            f"target {name!r} holds text, and values to predict are numbers; turn the text into "
            f'numbers, or set model_config.task to "classification"'
        )
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, found below
        numbers = column.astype(np.float32)
    bad = ~np.isfinite(numbers).reshape(len(numbers), -1).all(axis=1)
    if bad.any():
        raise not_finite(name, int(bad.sum()), len(bad), int(bad.argmax()))
    return numbers


def _column(split: datasets.Dataset, columns: tuple[str, ...]) -> Array:
    """One column as it is, or several side by side."""
    parts = [_flat(tables.column_array(split, name)) for name in columns]
    if len(parts) == 1:
        return parts[0]
    for name, part in zip(columns, parts, strict=True):
        if part.ndim > 1 or part.dtype.kind == "O":
            raise DatasetError(
                f"target {name!r} must hold one number for each row, as it is one of several"
            )
    return np.stack(parts, axis=1)


def _flat(column: Array) -> Array:
    """Lists of one number each are that number: one label of several there cannot be."""
    alone = column.ndim == _FLAGS and column.shape[1] == 1 and column.dtype.kind in "biuf"
    return column.reshape(-1) if alone else column


def _check_names(splits: Sequence[datasets.Dataset], columns: tuple[str, ...]) -> None:
    """One number must mean one class in all splits, as it is numbers that are compared."""
    show = reprlib.Repr()
    show.maxlist = _SHOWN_NAMES
    for name in columns:
        first = tables.class_names(splits[0], name)
        for split in splits[1:]:
            names = tables.class_names(split, name)
            # Plain numbers claim no names; of one list, the other may be the beginning.
            if any(a != b for a, b in zip(first or (), names or (), strict=False)):
                raise DatasetError(
                    f"target {name!r} names its classes {show.repr(first)} in train and "
                    f"{show.repr(names)} in validation, so that one number means two classes; "
                    f"give both splits the list of train, in `datasets` by "
                    f"align_labels_with_mapping"
                )


def _task_of(target: Array) -> Task:
    if target.dtype.kind == "f":
        return "regression"
    if target.ndim == _FLAGS and target.dtype.kind in "biu" and np.isin(target, (0, 1)).all():
        return "multi-label"
    return "classification"


def _values(target: str, column: Array) -> Array:
    values = finite_numbers(target, column)
    return values.reshape(len(values), -1)


def _flags(target: str, column: Array) -> Array:
    if column.ndim != _FLAGS or column.dtype.kind == "O" or not np.isin(column, (0, 1)).all():
        raise DatasetError(
            f"target {target!r} must hold, for each row, a list with 1 for each label that is set "
            f"and 0 for each that is not; or name several columns of 0 and 1 in "
            f"model_config.targets"
        )
    return column.astype(np.float32)


def _classes(
    target: str, raw: list[Array], names: list[str] | None
) -> tuple[list[Array], tuple[str, ...]]:
    for column in raw:
        if column.ndim != 1:
            raise DatasetError(
                f"target {target!r} must hold one class for each row; for several at once, lists "
                f'of 0 and 1, set model_config.task to "multi-label"'
            )
        if column.dtype.kind == "f" and not np.equal(np.mod(column, 1), 0).all():
            raise DatasetError(
                f"target {target!r} holds fractions, which are no classes; set model_config.task "
                f'to "regression" to predict values'
            )
    _check_known(target, raw, names)
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
    return [np.searchsorted(known, column).astype(np.int64) for column in raw], labels


def _check_known(target: str, raw: list[Array], names: list[str] | None) -> None:
    """Where classes have names, a number without one is no class."""
    if names is None:
        return
    bad = sum(int(((column < 0) | (column >= len(names))).sum()) for column in raw)
    if bad:
        raise DatasetError(
            f"target {target!r} has {bad} rows without a class: numbers outside of its "
            f"{len(names)} names, as -1 is for `datasets`; leave them out, in `datasets` by "
            f"filter(lambda row: 0 <= row[{target!r}] < {len(names)})"
        )


def _shown(value: object, names: list[str] | None) -> str:
    return repr(value if names is None else tables.class_label(value, names))
