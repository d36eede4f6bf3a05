"""A queue of features in a variable that is written in each step (momentum contrast)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

import tfdist
from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case


class MomentumContrast(keras.Model):
    """Compares a row with its other view and with a queue of the features of earlier rows."""

    def __init__(self, encoder: keras.Model, slow_encoder: keras.Model, size: int) -> None:
        super().__init__()
        self.encoder, self.slow_encoder, self.size = encoder, slow_encoder, size
        slow_encoder.trainable = False
        features = encoder.output_shape[-1]
        self.queue = self.add_weight(
            shape=(size, features), initializer="ones", trainable=False, name="queue"
        )
        self.next = self.add_weight(
            shape=(), initializer="zeros", trainable=False, dtype="int32", name="next"
        )

    def call(self, inputs: Any) -> Any:
        return self.encoder(inputs)

    def train_step(self, data: Any) -> dict[str, Any]:
        first, second = data
        for slow, fast in zip(self.slow_encoder.variables, self.encoder.variables, strict=True):
            slow.assign(0.9 * slow + 0.1 * fast)
        keys = tf.math.l2_normalize(self.slow_encoder(second), axis=-1)
        with tf.GradientTape() as tape:
            queries = tf.math.l2_normalize(self.encoder(first, training=True), axis=-1)
            positives = tf.reduce_sum(queries * keys, axis=-1, keepdims=True)
            negatives = tf.matmul(queries, self.queue, transpose_b=True)
            similarities = tf.concat([positives, negatives], axis=-1) / 0.1
            loss = tf.reduce_mean(tf.reduce_logsumexp(similarities, axis=-1) - similarities[:, 0])
        gradients = tape.gradient(loss, self.encoder.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.encoder.trainable_variables, strict=True))
        # The queue takes the keys of all replicas, so that each of them writes the same.
        keys = tfdist.gather_rows(keys)
        rows = tf.shape(keys)[0]
        places = (self.next + tf.range(rows)) % self.size
        self.queue.assign(tf.tensor_scatter_nd_update(self.queue, places[:, None], keys))
        self.next.assign((self.next + rows) % self.size)
        return {"loss": loss}


@case("own steps", on=("mirrored_2", "workers_2x1", "mesh_2x2"))
def momentum_contrast(context: Context) -> dict[str, Any]:
    """A queue of features of all rows, written by train_step at a place that a variable holds; uneven batches."""

    def encoder() -> keras.Model:
        return tiny.dense(4)

    def build() -> keras.Model:
        return MomentumContrast(encoder(), encoder(), size=16)

    model = tiny.compiled(context, build, lambda: keras.optimizers.SGD(0.1), lambda: None)
    (first, _), (second, _) = tiny.rows(31), tiny.rows(31, seed=2)
    history = model.fit(first, second, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    return tiny.outcome(context, model, history)
