"""Learning-rate schedules: linear warm-up, then one of Keras's own decays."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfdist.config.schema import OptimizerConfig


@keras.saving.register_keras_serializable(package="tfdist")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to the first value of `decay` in `warmup_steps` updates, then follows `decay`.

    The first update already has a rate above zero, 1 / (warmup_steps + 1) of the peak, so that no step is wasted.

    Args:
        decay: The schedule after the warm-up; its step counts from the end of the warm-up.
        warmup_steps: Updates of the warm-up; 0 gives `decay` itself.
    """

    def __init__(self, decay: keras.optimizers.schedules.LearningRateSchedule, warmup_steps: int):
        super().__init__()
        self.decay = decay
        self.warmup_steps = warmup_steps

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rising = self.decay(0) * (step + 1.0) / (self.warmup_steps + 1.0)
        after = self.decay(ops.maximum(step - self.warmup_steps, 0.0))
        return ops.where(step < self.warmup_steps, rising, after)

    def get_config(self) -> dict[str, Any]:
        return {"decay": keras.saving.serialize_keras_object(self.decay), "warmup_steps": self.warmup_steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LinearWarmup:
        return cls(keras.saving.deserialize_keras_object(config["decay"]), config["warmup_steps"])


def create_schedule(config: OptimizerConfig, num_updates: int) -> LinearWarmup:
    """Returns the schedule of `config` over `num_updates` optimizer updates (not batches)."""
    warmup_steps = min(round(config.warmup_fraction * num_updates), num_updates - 1)
    decay_steps = num_updates - warmup_steps
    peak = config.learning_rate
    schedules = keras.optimizers.schedules
    decays = {
        "linear": lambda: schedules.PolynomialDecay(peak, decay_steps, end_learning_rate=0.0),
        "cosine": lambda: schedules.CosineDecay(peak, decay_steps),
        "constant": lambda: schedules.PolynomialDecay(peak, decay_steps, end_learning_rate=peak),
    }
    return LinearWarmup(decays[config.schedule](), warmup_steps)
