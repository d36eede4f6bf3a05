"""Several steps in one execution, of which the replicas sum something that has another size in each step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.numerics import RELATIVE_TOLERANCE, relative_difference

RANDOM = np.random.default_rng(0)
TEXTS = RANDOM.integers(0, 50, (22, 6)).astype("int32")
VALUES = RANDOM.normal(size=(22, 1)).astype("float32")


class Positions(keras.layers.Layer):
    """Adds a row of a table for each place of a text, however long the text is."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=(6, 4))

    def call(self, x: Any) -> Any:
        return x + keras.ops.take(self.table, keras.ops.arange(keras.ops.shape(x)[1]), axis=0)


def texts() -> tf.data.Dataset:
    """Returns batches of 8, 8 and 6 rows; every second one has shorter texts."""
    batches = tf.data.Dataset.from_tensor_slices((TEXTS, VALUES)).batch(8).enumerate()
    dataset = batches.map(
        lambda number, batch: (batch[0][:, : 6 - 2 * tf.cast(number % 2, tf.int32)], batch[1])
    )
    return dataset.apply(tf.data.experimental.assert_cardinality(3))


@tfdist.whole_batch_loss
def centred(y: Any, predicted: Any) -> Any:
    difference = predicted - y
    return keras.ops.mean(keras.ops.square(difference - keras.ops.mean(difference)))


def trained(steps: int, loss: Any, layers: Any) -> tuple[list[np.ndarray], dict[str, list[float]], int]:
    strategy = tfdist.create_strategy("mirrored", devices=2, repeated_rows="sum")
    keras.utils.set_random_seed(1)
    with strategy.scope():
        embedding = keras.layers.Embedding(50, 4)
        pooling = keras.layers.GlobalAveragePooling1D()
        body = [embedding, *(make() for make in layers), pooling, keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((None,), dtype="int32"), *body])
        model.compile(keras.optimizers.Adam(0.05), loss, steps_per_execution=steps)
    history = model.fit(texts(), epochs=2, verbose=0).history
    return model.get_weights(), history, int(model.optimizer.iterations.numpy())


@pytest.mark.parametrize(
    ("loss", "layers"),
    [("mse", ()), ("mse", (Positions,)), (centred, ())],
    ids=["rows of a table", "positions", "whole batch"],
)
def test_executions_of_several_steps_are_single_steps(loss: Any, layers: Any) -> None:
    found, history, updates = trained(3, loss, layers)
    expected, expected_history, _ = trained(1, loss, layers)
    assert updates == 6
    for one, other in zip(found, expected, strict=True):
        assert relative_difference(one, other) <= RELATIVE_TOLERANCE
    np.testing.assert_allclose(history["loss"], expected_history["loss"], rtol=1e-5)
