"""Machines that are wrong, and a toolkit that is: sums with an error, copies that differ, a mend that is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.faults.model import compiled, fault, layers, restore
from tfdist._internals.patches import list_patches
from tfdist._internals.replica import step as replica_step


def _with_sums(wrong: Callable[[list[Any]], list[Any]]) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        right = replica_step.all_reduce
        replica_step.all_reduce = lambda values: wrong(right(values))  # type: ignore[attr-defined]
        restore.append(lambda: setattr(replica_step, "all_reduce", right))
        return compiled()

    return build


def _scaled(values: list[Any], factor: float) -> list[Any]:
    return [value * tf.cast(factor, value.dtype) if value.dtype.is_floating else value for value in values]


fault("machine: sums are 1 % too large")(_with_sums(lambda values: _scaled(values, 1.01)))
fault("machine: one sum is lost")(
    _with_sums(lambda values: [*values[:1], *_scaled(values[1:2], 0.0), *values[2:]])
)


@fault("machine: the copies of a weight differ")
def _copies() -> keras.Model:
    model = compiled()
    copies = model.layers[0].kernel.value.values
    copies[1].assign(copies[1] * 1.5)
    return model


def _without(module: str, build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    def planted() -> keras.Model:
        patches = [patch for patch in list_patches() if patch.name == module]
        for patch in patches:
            patch.revert()
            restore.append(patch.apply)
        return build()

    return planted


class OwnMean(keras.Sequential):
    """Means its own loss over the steps."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mean = keras.metrics.Mean(name="mean")

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.mean.update_state(loss)
        return {"mean": self.mean.result()}


def _mean() -> keras.Model:
    model = OwnMean(layers())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


fault("toolkit: the mend of losses is missing")(_without("step.losses", compiled))
fault("toolkit: the mend of optimizers is missing, with clipping")(
    _without("step.optimizers", lambda: compiled(optimizer=keras.optimizers.Adam(0.1, global_clipnorm=0.01)))
)
fault("toolkit: the mend of metrics is missing")(_without("step.metrics", _mean))
