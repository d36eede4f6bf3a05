"""Reading the learning rate of any Keras optimizer."""

from __future__ import annotations

from typing import Any

import keras


def current_learning_rate(optimizer: Any) -> float:
    """The rate of the next step: of a schedule as of a number, and inside a `LossScaleOptimizer`."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def has_schedule(optimizer: Any) -> bool:
    """Whether the rate comes from a `LearningRateSchedule` or a function, and so cannot be set."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return not isinstance(optimizer.get_config()["learning_rate"], (int, float))
