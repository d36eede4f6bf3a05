"""While a step is checked, the optimizers act: an update is due, and the learning rate is not zero."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras.src.optimizers.schedules.learning_rate_schedule import LearningRateSchedule

from tfdist._internals.check.variables import optimizers_of

# How many updates later a schedule may have left a rate of zero, with which a warm-up begins.
_LATER = (0, 1, 10, 100, 1_000, 10_000, 100_000)
_RATE = 1e-3


@contextmanager
def acting(model: keras.Model) -> Iterator[None]:
    """Sets the counters and rates of a model's optimizers so that a step changes the weights, and puts them back.

    With gradient accumulation most steps update nothing, and with a warm-up the first step has the rate 0. A check of
    such a step would see nothing.
    """
    undo: list[tuple[Any, Any]] = []
    for optimizer in optimizers_of(model):
        for variable, value in _settings(optimizer):
            undo.append((variable, np.array(variable.numpy())))
            variable.assign(value)
    try:
        yield
    finally:
        for variable, value in reversed(undo):
            variable.assign(value)


def has_open_accumulation(model: keras.Model) -> bool:
    """Returns whether gradients have been accumulated that no update has used yet."""
    optimizers = [one for one in optimizers_of(model) if one.gradient_accumulation_steps]
    return any(
        int(one._iterations.numpy()) % one.gradient_accumulation_steps for one in optimizers if one.built
    )


def _settings(optimizer: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    steps = optimizer.gradient_accumulation_steps or 1
    counter = getattr(optimizer, "_iterations", None)
    rate = getattr(optimizer, "_learning_rate", None)
    if counter is None or rate is None:
        return found
    updates = int(counter.numpy()) // steps
    if isinstance(rate, LearningRateSchedule):
        later = next((more for more in _LATER if float(rate(updates + more)) != 0.0), 0)
        updates += later
    elif hasattr(rate, "assign") and float(rate.numpy()) == 0.0:
        found.append((rate, _RATE))
    due = updates * steps + steps - 1
    if due != int(counter.numpy()):
        found.append((counter, due))
    return found
