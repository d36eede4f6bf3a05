"""Losses that compare each row with all others of the batch."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

import tfdist
from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case


class Contrastive(keras.Sequential):
    """Brings the two views of a row together; the other rows of the batch are the negatives."""

    def train_step(self, data: Any) -> dict[str, Any]:
        first, second = data
        with tf.GradientTape() as tape:
            views = [tf.math.l2_normalize(self(view, training=True), axis=-1) for view in (first, second)]
            anchors, others = tfdist.gather_rows(views)
            similarities = tf.matmul(anchors, others, transpose_b=True) / 0.1
            own = tf.range(tf.shape(similarities)[0])
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=own, logits=similarities)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


class OwnAnchors(keras.Sequential):
    """The same loss, for which each replica compares its own rows with those of all, so that it has less to compute."""

    def train_step(self, data: Any) -> dict[str, Any]:
        first, second = data
        with tf.GradientTape() as tape:
            anchors, others = (
                tf.math.l2_normalize(self(view, training=True), axis=-1) for view in (first, second)
            )
            positives = tf.reduce_sum(anchors * others, axis=-1) / 0.1
            similarities = tf.matmul(anchors, tfdist.gather_rows(others), transpose_b=True) / 0.1
            loss = tf.reduce_mean(tf.reduce_logsumexp(similarities, axis=-1) - positives)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


class Spread(keras.Sequential):
    """Adds to the compiled loss how far the outputs' second moments are from one, which is no mean over rows."""

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        deviation = tf.sqrt(tfdist.mean_over_rows(tf.square(y_pred)))
        total = tfdist.sum_over_rows(tf.reduce_sum(y_pred, axis=-1))
        return loss + tf.reduce_sum(tf.square(deviation - 1.0)) + 0.01 * tf.square(total)


MODELS = {"all rows": Contrastive, "own anchors": OwnAnchors, "moments": Spread}


@case("own steps", each=MODELS, on=("mirrored_2", "workers_2x1", "mesh_2x2"), stands_for_family=True)
def contrastive(context: Context, name: str) -> dict[str, Any]:
    """Losses on gathered rows and on sums over them, uneven batches."""

    def build() -> keras.Model:
        layers = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(tiny.FEATURES)]
        return tiny.fix_weights(MODELS[name]([keras.layers.Input((tiny.FEATURES,)), *layers]))

    model = tiny.compiled(context, build, lambda: keras.optimizers.SGD(0.05), lambda: "mse")
    (first, _), (second, _) = tiny.rows(31), tiny.rows(31, seed=2)
    history = model.fit(first, second, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    return tiny.outcome(context, model, history)
