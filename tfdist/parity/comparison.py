"""Compares what a case has returned under a strategy with what it has returned in plain Keras on one device.

Every array has a name `kind/rest`, and the kind says how it is compared. Two topologies are never compared with each
other: each is compared with the reference. The tolerances are in `tfdist.numerics`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfdist.numerics import (
    BFLOAT16_TOLERANCE,
    FLOAT16_TOLERANCE,
    RELATIVE_TOLERANCE,
    relative_difference,
)

# The differences of these kinds are relative to max(floor, |reference|). So weights near zero may differ by an absolute
# 1e-5. Losses and metrics have a smaller scale.
FLOORS = {"weights": 1.0, "slots": 1.0, "predict": 1.0, "history": 0.1, "metrics": 0.1}

# Kinds that were computed in half precision; their differences are relative to max(1, |reference|).
HALVES = {"bfloat16": BFLOAT16_TOLERANCE, "float16": FLOAT16_TOLERANCE}

# Integers, strings, orders and counts, which must be equal.
EXACT = frozenset({"exact", "ids"})

# Invariants of the run itself, which need no reference: `true/...` is all True, and `zero/...` is exactly 0. Arrays of
# every kind must be the same in all processes; for `agree/...` nothing else is asked.
OWN = frozenset({"true", "zero", "agree"})

KINDS = frozenset(FLOORS) | frozenset(HALVES) | EXACT | OWN

# Kinds of which each process returns its own part. The parts are joined and sorted before they are compared.
PARTS = frozenset({"ids"})

Arrays = Mapping[str, np.ndarray]


@dataclass
class Comparison:
    """How far a run is from the reference.

    Attributes:
        differences: The relative difference of each array; infinite if only one side is finite.
        failures: One line for each array that is out of tolerance.
    """

    differences: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def difference(self) -> float:
        """The largest difference of any array."""
        return max(self.differences.values(), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether every array is within its tolerance."""
        return not self.failures


def kind_of(name: str) -> str:
    """Returns the kind of a named array.

    Raises:
        ValueError: The name has no known kind.
    """
    kind = name.split("/", 1)[0]
    if kind not in KINDS:
        raise ValueError(
            f"Result {name!r} has no known kind; a name starts with one of {sorted(KINDS)} and '/'."
        )
    return kind


def merge_processes(parts: Sequence[Arrays]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Joins the results of all processes of a topology.

    Args:
        parts: The named arrays that each process returned.

    Returns:
        One set of named arrays, and a line for each array that is not the same, bit for bit, in all processes.
    """
    merged, failures = dict(parts[0]), []
    for index, part in enumerate(parts[1:], start=1):
        if set(part) != set(merged):
            failures.append(f"process {index} returned other results: {sorted(set(part) ^ set(merged))}")
    for name in list(merged):
        values = [part[name] for part in parts if name in part]
        if kind_of(name) in PARTS:
            merged[name] = np.sort(np.concatenate([np.ravel(value) for value in values]))
        elif not all(_identical(value, values[0]) for value in values[1:]):
            failures.append(f"{name} is not the same in all processes")
    return merged, failures


def compare(results: Arrays, reference: Arrays, *, bit_equal: bool = False) -> Comparison:
    """Compares the merged results of a topology with those of the reference.

    Args:
        results: The results of the topology's processes.
        reference: The results of plain Keras.
        bit_equal: Whether the tolerance of every kind is 0.
    """
    comparison = Comparison()
    for name in sorted(set(results) ^ set(reference)):
        comparison.failures.append(f"{name} is missing from one side")
    for name in sorted(set(results) & set(reference)):
        kind = kind_of(name)
        tolerance = 0.0 if bit_equal else HALVES.get(kind, RELATIVE_TOLERANCE)
        failure, comparison.differences[name] = _compare_one(kind, results[name], reference[name], tolerance)
        if failure:
            comparison.failures.append(f"{name} {failure}")
    return comparison


def _compare_one(kind: str, value: np.ndarray, expected: np.ndarray, tolerance: float) -> tuple[str, float]:
    """Returns what is wrong, or an empty string, and the difference, 0 for kinds without one."""
    if kind == "agree":
        return "", 0.0
    if kind == "true":
        return "" if np.all(value) else "is false", 0.0
    if kind in EXACT:
        return "" if _identical(value, expected) else f"is {_short(value)}, not {_short(expected)}", 0.0
    if kind == "zero":
        expected, tolerance = np.zeros_like(value), 0.0
    difference = relative_difference(value, expected, FLOORS.get(kind, 1.0))
    return "" if difference <= tolerance else f"differs by {difference:.3g}", difference


def _identical(value: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(value, other, equal_nan=np.asarray(value).dtype.kind == "f")


def _short(value: np.ndarray) -> str:
    text = np.array2string(np.asarray(value), threshold=12, max_line_width=200)
    return text if len(text) < 120 else text[:117] + "..."
