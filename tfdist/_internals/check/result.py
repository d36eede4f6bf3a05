"""What a check finds: the difference of each log and variable, and whether rounding explains it."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import keras
import numpy as np
from keras import tree

from tfdist._internals.check.compare import Difference, Runs, Sizes, of_change, of_logs, sizes_of
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
    """The variables of a step before it, after it on all devices, and after it on one device, twice.

    Attributes:
        tracked: The variables.
        before: Their values before the step.
        found: What it left on all devices.
        expected: What it left on one device.
        start: The values before the disturbed step.
        disturbed: What the disturbed step left on one device.
        differing: Variables whose copies on the replicas are not alike.
    """

    tracked: list[Tracked]
    before: Values
    found: Outcome
    expected: Outcome
    start: Values
    disturbed: Outcome
    differing: list[str]

    def sizes(self) -> list[Sizes]:
        """Returns the sizes of each variable."""

        def of_one(one: Tracked) -> Sizes:
            runs = self.before, self.found.values, self.expected.values, self.start, self.disturbed.values
            return sizes_of(Runs(*(np.asarray(values[one.path]) for values in runs)))

        # NumPy lets other threads work meanwhile.
        with ThreadPoolExecutor() as pool:
            return list(pool.map(of_one, self.tracked))


def compared(
    outcomes: Outcomes, sizes: list[Sizes], precision: str
) -> tuple[dict[str, list[Difference]], list[str]]:
    """Returns the differences by role, and the variables whose change is rounding alone."""
    differences: dict[str, list[Difference]] = {role: [] for role in ("logs", WEIGHT, SLOT, STATE, METRIC)}
    differences["logs"] = of_logs(
        outcomes.found.logs, outcomes.expected.logs, outcomes.disturbed.logs, precision
    )
    pairs = list(zip(outcomes.tracked, sizes, strict=True))
    slots = [size.change for one, size in pairs if one.role == SLOT and not size.exact]
    floors = {SLOT: _SMALL * max(slots, default=0.0)}
    unjudged = []
    for one, size in pairs:
        # The sum of an accumulator is that of gradients, which the update shows. Keras counts the losses of several
        # outputs by rows or by steps, as it knows the shape; their means are logs.
        if (one.is_sum and "accumulator" in one.path) or one.path.startswith("compile_loss/"):
            continue
        difference = of_change(one.path, size, precision, floors.get(one.role, 0.0))
        if difference is None:
            unjudged.append(one.path)
        else:
            differences[one.role].append(difference)
    return differences, unjudged


def is_random(outcomes: Outcomes, sizes: list[Sizes], again: Callable[[], Outcome]) -> bool:
    """Returns whether two equal runs on one device differ.

    Args:
        outcomes: What the runs left.
        sizes: Those of the outcomes.
        again: Runs the step on one device once more.
    """
    if _noise(outcomes, sizes) <= _SUSPICIOUS:
        return False
    return _noise(outcomes, outcomes._replace(start=outcomes.before, disturbed=again()).sizes()) > _RANDOM


def _noise(outcomes: Outcomes, sizes: list[Sizes]) -> float:
    """Returns how far the changes of the weights in the disturbed run are off, relative to their size."""
    weights = [
        size
        for one, size in zip(outcomes.tracked, sizes, strict=True)
        if one.role == WEIGHT and not size.exact and math.isfinite(size.noise)
    ]
    change = sum(size.change**2 * size.numbers for size in weights)
    noise = sum(size.noise**2 * size.numbers for size in weights)
    return math.sqrt(noise / change) if change else 0.0


def has_own_loss(model: keras.Model) -> bool:
    """Returns whether a model was compiled with a loss that is none of Keras's."""
    losses = [loss for loss in tree.flatten(model.loss) if callable(loss)]
    return any(not (getattr(loss, "__module__", None) or "").startswith("keras.") for loss in losses)
