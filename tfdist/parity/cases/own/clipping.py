"""Gradients that are used before the optimizer has them: clipped by hand."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

import tfdist
from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case


class Clipped(keras.Sequential):
    """Clips the gradient of the batch in its own step, and logs its norm."""

    def train_step(self, data: Any) -> dict[str, Any]:
        features, labels = data
        with tf.GradientTape() as tape:
            predictions = self(features, training=True)
            loss = self.compute_loss(features, labels, predictions)
        gradients = tfdist.sum_gradients(tape.gradient(loss, self.trainable_variables))
        gradients, norm = tf.clip_by_global_norm(gradients, 0.1)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss, "norm": norm}


OPTIMIZERS = {
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=1.0),
    "accumulation": lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=3),
    "Adam": lambda: keras.optimizers.Adam(0.1),
}


@case("own steps", each=OPTIMIZERS, on=("mirrored_2", "workers_2x1", "mesh_2x2"))
def clipped_by_hand(context: Context, name: str) -> dict[str, Any]:
    """A train_step that clips the summed gradients itself, with an embedding among the layers; uneven batches."""

    def build() -> keras.Model:
        layers = [
            keras.layers.Input((5,), dtype="int32"),
            keras.layers.Embedding(9, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(tiny.CLASSES),
        ]
        return tiny.fix_weights(Clipped(layers))

    model = tiny.compiled(context, build, OPTIMIZERS[name])
    _, labels = tiny.rows(31)
    # Ids that repeat within a batch and between the replicas: the slices of all rows must stay as one device has them.
    ids = tf.random.stateless_uniform((31, 5), (1, 2), 0, 9, tf.int32).numpy()
    history = model.fit(ids, labels, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    return tiny.outcome(context, model, history)
