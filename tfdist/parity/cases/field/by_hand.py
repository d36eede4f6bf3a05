"""A script that computes in the scope, outside of a step: each replica's copy is given what one device gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import MESH, NARROW, case

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "clipped": lambda: keras.optimizers.SGD(0.5, momentum=0.9, global_clipnorm=0.1),
    "averaged": lambda: keras.optimizers.AdamW(0.1, use_ema=True, ema_overwrite_frequency=2),
    "accumulated": lambda: keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop(0.1)),
}


@case("updates", on=(*NARROW, MESH))
def applied_by_hand(context: Context) -> dict[str, Any]:
    """`apply_gradients` with the gradients of a tape around the whole batch."""
    found: dict[str, Any] = {}
    features, labels = tiny.rows(tiny.BATCH + 1)
    for name, create in OPTIMIZERS.items():
        with context.scope():
            model = tiny.compiled(context, tiny.mlp, create)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
            for _ in range(4):
                with tf.GradientTape() as tape:
                    mean = model.optimizer.scale_loss(tf.reduce_mean(loss(labels, model(features))))
                gradients = tape.gradient(mean, model.trainable_variables)
                model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        outcome = tiny.outcome(context, model)
        found |= {key.replace("/", f"/{name} ", 1): value for key, value in outcome.items()}
    return found


@case("metrics", on=(*NARROW, MESH))
def counted_by_hand(context: Context) -> dict[str, Any]:
    """Metrics that count in integers, in floats and from another start, updated by hand; their state set and read."""
    truth, guessed = np.asarray([0, 1, 2, 1, 0, 2, 2]), np.asarray([0, 1, 1, 1, 2, 2, 2])
    with context.scope():
        classes = keras.metrics.MeanIoU(3)
        mean = keras.metrics.Mean()
        start = mean.add_variable((2,), "ones", name="start")
        for _ in range(2):
            classes.update_state(truth, guessed)
            mean.update_state(guessed)
            start.assign_add([1.0, 2.0])
        found = {"metrics/classes": np.asarray(classes.result()), "metrics/mean": np.asarray(mean.result())}
        found["metrics/start"] = keras.ops.convert_to_numpy(start)
        for metric in (classes, mean):
            for variable in metric.variables:
                variable.assign(keras.ops.ones_like(variable) * 3)
    return found | {
        "exact/counts": np.asarray(keras.ops.convert_to_numpy(classes.variables[0])),
        "metrics/set": np.asarray(mean.result()),
    }
