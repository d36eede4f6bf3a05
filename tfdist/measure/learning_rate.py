"""Reading the learning rate of any Keras optimizer."""

from __future__ import annotations

from typing import Any

import keras


def current_learning_rate(optimizer: Any) -> float:
    """Returns the rate of the next step, from a number or a schedule, also inside a `LossScaleOptimizer`."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def has_schedule(optimizer: Any) -> bool:
    """Returns whether the rate comes from a `LearningRateSchedule` or a function, and so cannot be set."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return not isinstance(optimizer.get_config()["learning_rate"], (int, float))
