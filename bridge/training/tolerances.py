"""How far the answers of two runtimes may be apart. No torch: Triton's answers are judged too.

Enters: answers. Leaves: the largest difference that they may have.
"""

import numpy as np

from bridge.tensors import Array

TOLERANCE = 1e-4
"""Of float32 answers of size up to 1, computed on processors; of larger ones in proportion to the
largest."""

GPU_TOLERANCE = 1e-2
"""Of answers that a GPU may have computed. ONNX Runtime multiplies float32 there as TF32, which
has 10 bits behind the point, as halves have."""


def tolerance_for(answers: Array, tolerance: float = TOLERANCE) -> float:
    """Largest difference that answers of this size may have."""
    return tolerance * max(1.0, float(np.abs(answers).max()))
