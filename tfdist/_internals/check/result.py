"""What a check finds: the difference of each log and variable, and whether rounding explains it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import tree

from tfdist._internals.check.compare import Difference, FourValues, of_change, of_logs, size
from tfdist._internals.check.reference import Outcome
from tfdist._internals.check.variables import METRIC, SLOT, STATE, WEIGHT, Tracked, Values

OWN_TRACE = "compile the step"

# The change of an optimizer's variable is rounding if it is this part of the largest of them.
_SMALL = 1e-6
# If rounding changes the changes by this part of their size, it may be no rounding. Then the same run is done again.
_SUSPICIOUS = 0.3
# If the changes of two equal runs on one device differ by this part of their size, the step has randomness of its own.
_RANDOM = 0.01


class Result(NamedTuple):
    """What a check found.

    Attributes:
        num_rows: The rows of the step.
        differences: Role -> the difference of each variable; the logs are those of the role `"logs"`.
        replicas_differ: Variables whose copies on the replicas are not alike.
        unjudged: Variables whose change is rounding alone.
        parts: Part of the check -> the seconds that it took.
        has_own_step: Whether the model has a `train_step` of the user's own.
        has_own_loss: Whether it has a loss that is none of Keras's.
        runs_eagerly: Whether its step is not compiled.
    """

    num_rows: int
    differences: dict[str, list[Difference]]
    replicas_differ: list[str]
    unjudged: list[str]
    parts: dict[str, float]
    has_own_step: bool
    has_own_loss: bool
    runs_eagerly: bool

    @property
    def seconds(self) -> float:
        """How long it took, without the compilation of the strategy's step, which training needs anyway."""
        return sum(seconds for part, seconds in self.parts.items() if part != OWN_TRACE)

    @property
    def fails(self) -> bool:
        """Whether the step is not that of one device."""
        return bool(self.replicas_differ) or any(
            one.fails for listed in self.differences.values() for one in listed
        )


class Outcomes(NamedTuple):
    """The variables of a step before it, after it on all devices, and after it on one device, twice."""

    tracked: list[Tracked]
    before: Values
    found: Outcome
    expected: Outcome
    disturbed: Outcome
    differing: list[str]


def compared(outcomes: Outcomes, precision: str) -> tuple[dict[str, list[Difference]], list[str]]:
    """Returns the differences by role, and the variables whose change is rounding alone."""
    tracked, before, found, expected, disturbed, _ = outcomes
    differences: dict[str, list[Difference]] = {role: [] for role in ("logs", WEIGHT, SLOT, STATE, METRIC)}
    differences["logs"] = of_logs(found.logs, expected.logs, disturbed.logs, precision)
    slots = [one.path for one in tracked if one.role == SLOT and _is_real(before[one.path])]
    largest = max((size(_change(path, before, expected)) for path in slots), default=0.0)
    unjudged = []
    for one in tracked:
        path = one.path
        # The sum of an accumulator is that of gradients, which the update shows. Keras counts the losses of several
        # outputs by rows or by steps, as it knows the shape; their means are logs.
        if (one.is_sum and "accumulator" in path) or path.startswith("compile_loss/"):
            continue
        difference = of_change(
            path,
            FourValues(
                *(values[path] for values in (before, found.values, expected.values, disturbed.values))
            ),
            precision,
            _SMALL * largest if one.role == SLOT else 0.0,
        )
        if difference is None:
            unjudged.append(path)
        else:
            differences[one.role].append(difference)
    return differences, unjudged


def is_random(outcomes: Outcomes, again: Callable[[], Outcome]) -> bool:
    """Returns whether two equal runs on one device differ.

    Args:
        outcomes: What the runs left.
        again: Runs the step on one device once more.
    """
    return _noise(outcomes, outcomes.disturbed) > _SUSPICIOUS and _noise(outcomes, again()) > _RANDOM


def _noise(outcomes: Outcomes, other: Outcome) -> float:
    """Returns how much the changes of the weights differ between two runs on one device, relative to their size."""
    before, expected = outcomes.before, outcomes.expected
    weights = [one.path for one in outcomes.tracked if one.role == WEIGHT and _is_real(before[one.path])]
    change = sum(_squares(_change(path, before, expected)) for path in weights)
    noise = sum(_squares(_change(path, expected.values, other)) for path in weights)
    return math.sqrt(noise / change) if change else 0.0


def _squares(values: np.ndarray) -> float:
    return size(values) ** 2 * values.size


def _is_real(value: np.ndarray) -> bool:
    return value.size > 0 and np.issubdtype(value.dtype, np.floating)


def _change(path: str, before: Values, after: Outcome) -> np.ndarray:
    change = after.values[path] - before[path]
    # An infinite change is one of both, and says nothing here.
    return change if math.isfinite(size(change)) else np.nan_to_num(change, posinf=0.0, neginf=0.0)


def has_own_loss(model: keras.Model) -> bool:
    """Returns whether a model was compiled with a loss that is none of Keras's."""
    losses = [loss for loss in tree.flatten(model.loss) if callable(loss)]
    return any(not (getattr(loss, "__module__", None) or "").startswith("keras.") for loss in losses)
