"""How far a step on all devices is from the same step on one, and whether rounding explains it; numpy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# What may differ by rounding, relative to the size of a change. A fault of a step is larger: the smallest of those
# that users reported is 7e-2.
_RELATIVE = {"float64": 1e-4, "float32": 2e-3, "float16": 2e-2, "bfloat16": 6e-2}
# A change may differ by as many times what rounding alone does to it. That is measured once, by a step whose weights
# are off by less than their own rounding.
_TIMES_NOISE = 6.0
# A change that rounding alone moves by this part of it says nothing, as that of a weight without a gradient.
_DROWNED = 0.2


class Difference(NamedTuple):
    """How far one value is from that of one device.

    Attributes:
        path: Which value.
        relative: The size of the difference, relative to that of the change on one device.
        allowed: What rounding explains of it, on the same scale.
        expected: The change on one device, its root of the mean of squares.
        found: The change on all devices, likewise.
    """

    path: str
    relative: float
    allowed: float
    expected: float
    found: float

    @property
    def fails(self) -> bool:
        """Whether rounding does not explain it."""
        return not self.relative <= self.allowed


def size(values: np.ndarray) -> float:
    """Returns the root of the mean of the squares."""
    if not values.size:
        return 0.0
    flat: np.ndarray = np.asarray(values, np.float64 if values.dtype == np.float64 else np.float32).ravel()
    total = float(np.dot(flat, flat))
    if not 1e-30 < total < 1e30:  # float32 may have overflowed, or lost all digits
        total = float(np.sum(np.square(flat, dtype=np.float64)))
    return math.sqrt(total / flat.size)


class FourValues(NamedTuple):
    """One variable before the step and after it.

    Attributes:
        before: Before the step.
        found: After the step on all devices.
        expected: After the step on one device.
        disturbed: After that step, from weights that were off by a rounding error.
    """

    before: np.ndarray
    found: np.ndarray
    expected: np.ndarray
    disturbed: np.ndarray


def of_change(path: str, values: FourValues, precision: str, floor: float = 0.0) -> Difference | None:
    """Returns the difference of one variable's change; None if rounding alone decides it.

    Args:
        path: Of the variable.
        values: Its values.
        precision: The dtype that the step computes in.
        floor: The size below which a change of this kind is rounding.
    """
    _, found, expected, disturbed = values
    if not np.issubdtype(found.dtype, np.floating) and found.dtype.name != "bfloat16":
        # A counter or a seed must be equal. What rounding changes, such as a count of right answers, is no counter.
        same = np.array_equal(found, expected) or not np.array_equal(disturbed, expected)
        return Difference(
            path, 0.0 if same else math.inf, 0.0, *(size(v.astype(np.float64)) for v in (expected, found))
        )
    before, found, expected, disturbed = (np.asarray(value, np.float32) for value in values)
    if not np.isfinite(expected).all():
        both = np.array_equal(np.isfinite(found), np.isfinite(expected))
        return Difference(path, 0.0 if both else math.inf, 0.0, math.inf, math.inf)
    change, own_change = expected - before, found - before
    extent, noise = size(change), size(disturbed - expected)
    if noise > _DROWNED * extent > 0:
        return None
    rounding = 4 * float(np.finfo(np.float32).eps) * size(expected)
    scale = max(extent, floor, rounding) or 1.0
    allowed = _RELATIVE[precision] + (_TIMES_NOISE * noise + rounding) / scale
    difference = size(found - expected)
    if not math.isfinite(difference):
        difference = math.inf
    return Difference(path, difference / scale, allowed, extent, size(own_change))


def of_logs(
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    disturbed: Mapping[str, np.ndarray],
    precision: str,
) -> list[Difference]:
    """Returns the difference of each log, relative to its size, at least 1e-3."""
    differences = []
    for name, value in expected.items():
        own = found.get(name)
        if own is None or own.shape != value.shape:
            differences.append(Difference(name, math.inf, 0.0, size(value), math.nan))
            continue
        if not np.isfinite(value).all():
            same = np.array_equal(own, value, equal_nan=True)
            differences.append(Difference(name, 0.0 if same else math.inf, 0.0, math.inf, math.inf))
            continue
        with np.errstate(invalid="ignore"):
            off, noise = (size(other - value) for other in (own, disturbed.get(name, value)))
        scale = max(size(value), 1e-3)
        allowed = _RELATIVE[precision] + _TIMES_NOISE * (noise if math.isfinite(noise) else 0.0) / scale
        differences.append(
            Difference(name, off / scale if math.isfinite(off) else math.inf, allowed, size(value), size(own))
        )
    return differences
