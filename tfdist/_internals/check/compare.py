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
# So many numbers are compared at a time.
_BLOCK = 1 << 16


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
    return math.sqrt(_squares(values.ravel()) / values.size) if values.size else 0.0


def _squares(flat: np.ndarray) -> float:
    flat = np.asarray(flat, np.float64 if flat.dtype == np.float64 else np.float32)
    total = float(np.dot(flat, flat))
    if not 1e-30 < total < 1e30:  # float32 may have overflowed, or lost all digits
        total = float(np.sum(np.square(flat, dtype=np.float64)))
    return total


class Runs(NamedTuple):
    """One variable before the step and after it.

    Attributes:
        before: Before the step.
        found: After the step on all devices.
        expected: After the step on one device.
        start: Before the disturbed step: off by a rounding error.
        disturbed: After the disturbed step on one device.
    """

    before: np.ndarray
    found: np.ndarray
    expected: np.ndarray
    start: np.ndarray
    disturbed: np.ndarray


class Sizes(NamedTuple):
    """What is to be known of one variable, each a root of the mean of squares.

    Attributes:
        change: Its change on one device.
        own_change: Its change on all devices.
        off: The difference of the two; infinite if something is not finite.
        noise: How far the disturbed change is from that on one device.
        value: Its value after the step on one device.
        numbers: How many numbers it has.
        exact: Whether it is a counter, or not finite, and so must be equal.
    """

    change: float
    own_change: float
    off: float
    noise: float
    value: float
    numbers: int
    exact: bool = False


def sizes_of(runs: Runs) -> Sizes:
    """Returns the sizes of one variable."""
    before, found, expected, _, disturbed = runs
    if not np.issubdtype(found.dtype, np.floating) and found.dtype.name != "bfloat16":
        # A counter or a seed must be equal. What rounding changes, such as a count of right answers, is no counter.
        same = np.array_equal(found, expected) or not np.array_equal(disturbed, expected)
        change, own_change = (size(value.astype(np.float64)) for value in (expected, found))
        return Sizes(change, own_change, 0.0 if same else math.inf, 0.0, 0.0, found.size, exact=True)
    flat = [value.ravel() for value in runs]
    # By blocks that a processor's cache holds, since memory for whole differences takes longer than the arithmetic.
    totals = np.zeros(5)
    for begin in range(0, before.size, _BLOCK):
        totals += _of_block(*(np.asarray(value[begin : begin + _BLOCK], np.float32) for value in flat))
    if not math.isfinite(totals[4]) and not np.isfinite(np.asarray(expected, np.float32)).all():
        finite = [np.isfinite(np.asarray(value, np.float32)) for value in (found, expected)]
        off = 0.0 if np.array_equal(finite[0], finite[1]) else math.inf
        return Sizes(math.inf, math.inf, off, 0.0, math.inf, found.size, exact=True)
    change, own_change, off, noise, value = (math.sqrt(total / max(before.size, 1)) for total in totals)
    return Sizes(change, own_change, off if math.isfinite(off) else math.inf, noise, value, before.size)


def _of_block(
    before: np.ndarray, found: np.ndarray, expected: np.ndarray, start: np.ndarray, disturbed: np.ndarray
) -> list[float]:
    with np.errstate(invalid="ignore", over="ignore"):
        change = expected - before
        parts = change, found - before, found - expected, disturbed - start - change, expected
        return [_squares(part) for part in parts]


def of_change(path: str, sizes: Sizes, precision: str, floor: float = 0.0) -> Difference | None:
    """Returns the difference of one variable's change; None if rounding alone decides it.

    Args:
        path: Of the variable.
        sizes: Its sizes.
        precision: The dtype that the step computes in.
        floor: The size below which a change of this kind is rounding.
    """
    if sizes.exact:
        return Difference(path, sizes.off, 0.0, sizes.change, sizes.own_change)
    if sizes.noise > _DROWNED * sizes.change > 0:
        return None
    rounding = 4 * float(np.finfo(np.float32).eps) * sizes.value
    scale = max(sizes.change, floor, rounding) or 1.0
    allowed = _RELATIVE[precision] + (_TIMES_NOISE * sizes.noise + rounding) / scale
    return Difference(path, sizes.off / scale, allowed, sizes.change, sizes.own_change)


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
