"""The one place where tolerances are stated, and how a difference is measured; numpy only."""

from __future__ import annotations

import math

import numpy as np

# For float32, after at most 20 steps. It is never relaxed for a case.
RELATIVE_TOLERANCE = 1e-5

# What was computed in half precision: twice the spacing of its numbers at 1. Rows that are split over devices are
# rounded before they are added up, so that an activation or a prediction may come to lie on the other side of a
# rounding boundary, one spacing away. Plain Keras on one device, with the rows of each batch in reverse order, is up to
# one spacing from itself (`tests/unit/parity/test_half_precision.py` measures it); the other is a margin.
BFLOAT16_TOLERANCE = 2 * 2.0**-7
FLOAT16_TOLERANCE = 2 * 2.0**-10


def relative_difference(value: np.ndarray, reference: np.ndarray, floor: float = 1.0) -> float:
    """Returns the maximum of |value - reference| / max(floor, |reference|) over all elements.

    Equal elements differ by 0, also if they are infinite or NaN. The result is infinite if the shapes differ, or if
    an element is finite on one side only.
    """
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    if value.shape != reference.shape:
        return math.inf
    same = (value == reference) | (np.isnan(value) & np.isnan(reference))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        scaled = np.where(same, 0.0, np.abs(value - reference) / np.maximum(floor, np.abs(reference)))
    return float(np.max(np.where(np.isfinite(scaled), scaled, np.inf)))
