"""AdamW as it is used to fine-tune BERT: no weight decay on biases and norms."""

from __future__ import annotations

import keras

from tfdist.config.schema import OptimizerConfig
from tfdist.training.schedules import create_schedule

# Keras and KerasHub name biases, and the vectors of layer and batch norms, by these words. Keras matches the names of
# TensorFlow's variables, which can have a suffix: `bias:0`, `bias/replica_1:0`.
NO_DECAY = (r"\bbias\b", r"\bgamma\b", r"\bbeta\b", r"\bscale\b")


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
