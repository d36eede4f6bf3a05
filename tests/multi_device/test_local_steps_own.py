"""What a loss or a step computes over the batch, a local step computes over the replica's rows, as one device would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist import create_strategy

GENERATOR = np.random.default_rng(2)
IDS = GENERATOR.integers(0, 7, (32, 5))
TAGS = GENERATOR.integers(0, 3, (32, 5))
LABELS = GENERATOR.integers(0, 2, (32, 1)).astype("float32")


def _tagger(rows: int = 7, columns: int = 4) -> keras.Model:
    """Its loss is the mean over the tokens that are not masked, and so needs the tokens of all replicas."""
    layers = [
        keras.layers.Embedding(rows, columns, mask_zero=True),
        keras.layers.Dense(3, activation="softmax"),
    ]
    model = keras.Sequential([keras.layers.Input((5,), dtype="int32"), *layers])
    model.compile(keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    return model


def _pooled(loss: Any, kind: Any = keras.Model) -> keras.Model:
    inputs = keras.layers.Input((5,), dtype="int32")
    table = keras.layers.Embedding(7, 4, mask_zero=True)(inputs)
    pooled = keras.layers.GlobalAveragePooling1D()(table)
    normal = keras.layers.BatchNormalization(synchronized=True)(pooled)
    model = kind(inputs, keras.layers.Dense(1, activation="sigmoid")(normal))
    model.compile(keras.optimizers.Adam(0.05), loss)
    return model


class Contrastive(keras.Model):
    """Compares each row with all others of the batch, and updates with a gradient that it clips itself."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y = data
        with tf.GradientTape() as tape:
            own = self(x, training=True)
            rows, labels = tfdist.gather_rows([own, y])
            loss = tf.reduce_mean(tf.square(own - tf.transpose(rows)) * (y - tf.transpose(labels) + 0.5))
            loss += tf.reduce_sum(tfdist.mean_over_rows(own) ** 2)
        gradients = tfdist.sum_gradients(tape.gradient(loss, self.trainable_variables))
        gradients, _ = tf.clip_by_global_norm(gradients, 0.1)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


TABLE = 10_000, 32  # large enough that its rows are compared before they are sent

MODELS: dict[str, tuple[Callable[[], keras.Model], np.ndarray]] = {
    "masked tokens, a table": (_tagger, TAGS),
    "a large table": (lambda: _tagger(*TABLE), TAGS),
    "a loss on the whole batch, synchronized statistics": (lambda: _pooled(keras.losses.Dice()), LABELS),
    "an own step": (lambda: _pooled("mse", Contrastive), LABELS),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_round_is_training_on_own_rows_and_then_the_mean(name: str) -> None:
    """Four steps of 8 rows: the first replica has rows 0 to 3 of each, and the second rows 4 to 7."""
    make, labels = MODELS[name]

    def build(strategy: Any) -> keras.Model:
        keras.utils.set_random_seed(1)
        with strategy.scope():
            return make()

    strategy = create_strategy("mirrored", devices=2, local_steps=4)
    model = build(strategy)
    model.fit(IDS, labels, batch_size=8, shuffle=False, verbose=0)
    alone = []
    for part in (slice(0, 4), slice(4, 8)):
        one = build(create_strategy("one_device"))
        rows, own = (data.reshape(4, 8, -1)[:, part].reshape(16, *data.shape[1:]) for data in (IDS, labels))
        one.fit(rows, own, batch_size=4, shuffle=False, verbose=0)
        alone.append([variable.numpy() for variable in one.trainable_variables])
    for variable, *parts in zip(model.trainable_variables, *alone, strict=True):
        np.testing.assert_allclose(variable.numpy(), np.mean(parts, 0), rtol=1e-4, atol=1e-5)
    if name == "a large table":
        # The mask leaves out id 0.
        digests, rows, head = 2 * 8 * TABLE[0], 4 * 6 * TABLE[1], 4 * 3 * (TABLE[1] + 1)
        sent = strategy.figures(model)["local_steps/megabytes"]
        np.testing.assert_allclose(sent, (digests + rows + head) / 1e6, rtol=1e-6)
    if name != "an own step":
        # The model that is evaluated is whole, and so is its loss.
        keras.utils.set_random_seed(1)
        one.set_weights(model.get_weights())
        expected = one.evaluate(IDS, labels, batch_size=8, verbose=0)
        np.testing.assert_allclose(model.evaluate(IDS, labels, batch_size=8, verbose=0), expected, rtol=1e-5)
