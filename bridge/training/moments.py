"""Mean and standard deviation of rows that may be more than memory holds. No torch.

In float64, as sums over many rows lose digits in float32. Pieces are merged by their means and
sums of squared deviations: T. F. Chan, G. H. Golub, R. J. LeVeque, Updating Formulae and a
Pairwise Algorithm for Computing Sample Variances, 1979.
"""

import math

import numpy as np

from bridge.tensors import Array
from bridge.training.streams import Inputs, pieces_of


def mean_and_scale(rows: Inputs, axes: list[int]) -> tuple[Array, Array]:
    """Mean and population standard deviation.

    Args:
        rows: float32 [rows, *shape], at least one; read once.
        axes: over which to sum, the rows' own (0) among them.

    Returns:
        Both float64, of the shape of one row, with 1 for the axes that were summed over.
    """
    over = tuple(axes)
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for part in pieces_of(rows):
        piece = np.array(part, np.float64)
        size = math.prod(piece.shape[axis] for axis in over)
        part_mean = piece.mean(axis=over, keepdims=True)
        piece -= part_mean
        part_squares = np.square(piece, out=piece).sum(axis=over, keepdims=True)
        apart = part_mean - mean
        whole = count + size
        mean = mean + apart * (size / whole)
        squares = squares + part_squares + np.square(apart) * (count * size / whole)
        count = whole
    return mean[0], np.sqrt(squares / count)[0]
