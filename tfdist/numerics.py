"""The one place where tolerances are stated, and how a difference is measured; numpy only."""

from __future__ import annotations

import math

import numpy as np

# Float32 after at most 20 steps. Never relaxed for a case.
RELATIVE_TOLERANCE = 1e-5

# Float32 variables that were trained with products in half precision. A product rounds each activation and gradient
# to half of the spacing (2**-7 for bfloat16, 2**-10 for float16), and rows that are split over devices are rounded
# before they are added. With the rows of each batch in reverse order, plain Keras on one device is up to a quarter of
# a spacing from itself (`tests/unit/parity/test_half_precision.py` measures it); the tolerance is one spacing.
BFLOAT16_TOLERANCE = 2.0**-7
FLOAT16_TOLERANCE = 2.0**-10


def relative_difference(value: np.ndarray, reference: np.ndarray, floor: float = 1.0) -> float:
    """Returns max |value - reference| / max(floor, |reference|), infinite for other shapes or finiteness."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    if value.shape != reference.shape:
        return math.inf
    same = (value == reference) | (np.isnan(value) & np.isnan(reference))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        scaled = np.where(same, 0.0, np.abs(value - reference) / np.maximum(floor, np.abs(reference)))
    return float(np.max(np.where(np.isfinite(scaled), scaled, np.inf)))
