"""O22: all that the rest of a training run depends on can be read from one model and given to another."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, WIDE, case

OPTIMIZERS = {
    "adam, scheduled": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 9)),
    "accumulating": lambda: keras.optimizers.SGD(0.5, momentum=0.9, gradient_accumulation_steps=3),
    "averaged": lambda: keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=3),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.05), initial_scale=64.0, dynamic_growth_steps=3
    ),
}


def _state(model: keras.Model) -> list[Any]:
    """Weights, seeds of layers, and what the optimizer keeps; metrics begin anew in every `fit`."""
    metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    return [*(v for v in model.variables if id(v) not in metrics), *model.optimizer.variables]


def _random() -> keras.Model:
    return tiny.mlp(
        lambda: keras.layers.BatchNormalization(synchronized=True), lambda: keras.layers.Dropout(0.5, seed=3)
    )


@case("O22", each=OPTIMIZERS, layouts=WIDE, every_item=NARROW, meshes=True)
def resumed_within_an_epoch(context: Context, name: str) -> dict[str, Any]:
    """State read after 4 of 9 batches, given to a new model that takes the other 5: as if never interrupted."""

    def build() -> keras.Model:
        return tiny.compiled(context, _random, OPTIMIZERS[name])

    batches = tf.data.Dataset.from_tensor_slices(tiny.rows(103)).batch(tiny.BATCH)
    whole, second = build(), build()
    values: list[np.ndarray] = []

    def read(batch: int, logs: Any = None) -> None:
        if batch == 3:
            values.extend(np.array(variable.numpy()) for variable in _state(whole))

    with context.random_by_row():
        whole.fit(batches, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=read)])
        with context.scope():
            second.optimizer.build(second.trainable_variables)
        for variable, value in zip(_state(second), values, strict=True):
            variable.assign(value)
        second.fit(batches.skip(4), verbose=0)
    found = tiny.outcome(context, second)
    # What accumulates is split anew over the replicas, which rounds; so it is held against one device alone.
    if name != "accumulating":
        for index, (one, other) in enumerate(zip(_state(second), _state(whole), strict=True)):
            found[f"zero/state {index}"] = np.asarray(one.numpy(), "f8") - np.asarray(other.numpy(), "f8")
    return found
