"""The learning rates of Hugging Face's linear schedule, whose first one is 0."""

from __future__ import annotations

from typing import Any

import keras


class LinearSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up from 0 and decay to 0, both linear."""

    def __init__(self, peak: float, warmup_steps: int, num_steps: int) -> None:
        self.peak, self.warmup_steps, self.num_steps = peak, warmup_steps, num_steps

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        up = step / max(1, self.warmup_steps)
        down = (self.num_steps - step) / max(1, self.num_steps - self.warmup_steps)
        return self.peak * keras.ops.maximum(0.0, keras.ops.minimum(up, down))
