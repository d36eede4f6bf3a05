"""AdamW as BERT is fine-tuned with: no weight decay on biases and norms."""

from __future__ import annotations

import keras

from tfdist.config.schema import OptimizerConfig
from tfdist.training.schedules import create_schedule

# Matched against whole variable names; Keras and KerasHub both use these for biases, layer and batch norms.
NO_DECAY = ("bias$", "^gamma$", "^beta$", "^scale$")


def create_optimizer(
    config: OptimizerConfig, num_updates: int, gradient_accumulation_steps: int | None = None
) -> keras.optimizers.AdamW:
    """Returns AdamW with warm-up and decay over `num_updates` updates.

    Args:
        config: Rates, decay and clipping.
        num_updates: Optimizer updates of the whole run; the schedule ends there.
        gradient_accumulation_steps: Batches whose gradients make one update.
    """
    optimizer = keras.optimizers.AdamW(
        learning_rate=create_schedule(config, num_updates),
        weight_decay=config.weight_decay,
        global_clipnorm=config.global_clipnorm,
        gradient_accumulation_steps=gradient_accumulation_steps,
    )
    optimizer.exclude_from_weight_decay(var_names=list(NO_DECAY))
    return optimizer
