"""Which rows are held back to judge by, where a dataset has no validation split. Row numbers only.

Enters: how many rows there are, and the class of each where there are classes. Leaves: the numbers
of the rows to train on and of those held back; the same for the same seed.
"""

import numpy as np

from bridge.errors import DatasetError
from bridge.tensors import Array


def split_rows(rows: int, seed: int, fraction: float, classes: Array | None) -> tuple[Array, Array]:
    """Numbers of the rows to train on, and of those to judge by.

    Args:
        rows: how many there are.
        seed: of the choice.
        fraction: share that is held back; at least one row is.
        classes: [rows]; each class is held back in its share, none of them whole. None: any rows.

    Raises:
        DatasetError: there are too few rows to hold any back.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)
    count = max(1, round(rows * fraction))
    if rows <= count:
        raise DatasetError(f"{rows} rows are too few to hold any back")
    held_back = _spread(order, count, classes, rng)
    kept = np.ones(rows, bool)
    kept[held_back] = False
    return order[kept[order]], held_back


def _spread(order: Array, count: int, classes: Array | None, rng: np.random.Generator) -> Array:
    """`count` of the row numbers in `order`, each class in its share, and none of them whole."""
    if classes is None or classes.ndim > 1:
        return order[:count]
    by_class = order[np.argsort(classes[order], kind="stable")]
    sorted_classes = classes[by_class]
    second = np.append(False, sorted_classes[1:] == sorted_classes[:-1])
    spare = by_class[second]  # the first row of each class stays: train must know every class
    if len(spare) < count:
        return order[:count]
    picked: Array = spare[((np.arange(count) + 0.5) * len(spare) / count).astype(int)]
    return rng.permutation(picked)
