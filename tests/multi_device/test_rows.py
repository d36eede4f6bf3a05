"""Rows on two replicas and a mesh: every part has as many, one row for a batch stays one, float64 stays float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist import create_strategy
from tfdist.errors import DataError, UnsupportedError

ROWS = np.random.default_rng(0).standard_normal((10, 4))
LABELS = np.random.default_rng(1).standard_normal((10, 1))


@pytest.fixture(scope="module", params=["mirrored", "mesh"])
def strategy(request: pytest.FixtureRequest) -> tf.distribute.Strategy:
    options = {"devices": 2} if request.param == "mirrored" else {"mesh": {"batch": 2}}
    return create_strategy(request.param, **options)


@pytest.fixture(scope="module")
def alone() -> tf.distribute.Strategy:
    return create_strategy("one_device")


class MeanOfBatch(keras.Model):
    """Predicts its rows, and one row for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(3, kernel_initializer="ones")

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def predict_step(self, data: Any) -> dict[str, Any]:
        rows = self(data)
        return {"mean": tf.reduce_mean(rows, axis=0, keepdims=True), "rows": rows}


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_one_row_for_a_batch_stays_one(strategy, alone, batch_size) -> None:
    data = tf.data.Dataset.from_tensor_slices(ROWS.astype("float32")).batch(batch_size, drop_remainder=True)
    found = []
    for one in (alone, strategy):
        with one.scope():
            model = MeanOfBatch()
            model.build((None, 4))
            model.compile("sgd", "mse")
        found.append(model.predict(data, verbose=0))
    for key in ("mean", "rows"):
        assert found[0][key].shape == found[1][key].shape
        np.testing.assert_allclose(found[0][key], found[1][key], rtol=1e-5, atol=1e-6)


def _ragged(rows: np.ndarray) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_tensor(tf.constant(rows, tf.float32), ragged_rank=1)


@pytest.mark.parametrize("kind", [tf.sparse.from_dense, _ragged], ids=["sparse", "ragged"])
def test_each_row_of_a_replica_that_has_one_is_predicted(alone, kind) -> None:
    """Each replica has one row, and its shape says so; that is no row for the whole batch."""

    class Sums(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1, kernel_initializer="ones")

        def call(self, x: Any) -> Any:
            return self.dense(x.to_tensor(shape=[None, 4]) if isinstance(x, tf.RaggedTensor) else x)

    def batches() -> Iterator[Any]:
        for row in range(0, 10, 2):
            yield (kind(ROWS[row : row + 2].astype("float32")),)

    mirrored, found = create_strategy("mirrored", devices=2), []
    for one in (alone, mirrored):
        with one.scope():
            model = Sums()
            model.compile("sgd", "mse")
        found.append(model.predict(batches(), verbose=0))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_a_model_that_predict_builds_leaves_nothing_for_the_next(alone) -> None:
    """Its variables were left in a list of Keras, and the next model ended in "already initialized"."""
    mirrored = create_strategy("mirrored", devices=2)
    for one in (alone, mirrored):
        with one.scope():
            model = MeanOfBatch()
            model.compile("sgd", "mse")
        model.predict(ROWS.astype("float32"), batch_size=5, verbose=0)
    with mirrored.scope():
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    model.fit(ROWS, LABELS, verbose=0)


@pytest.fixture
def in_float64() -> Iterator[None]:
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("in_float64")
def test_float64_stays_float64(strategy, alone) -> None:
    """The shares of 7 rows in two replicas, and weighted losses, have all digits of float64."""
    weights = np.linspace(1, 2, 10)
    found = []
    for one in (alone, strategy):
        with one.scope():
            layers = [keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)]
            model = keras.Sequential([keras.layers.Input((4,)), *layers])
            for index, weight in enumerate(model.trainable_variables):
                weight.assign(np.random.default_rng(index).standard_normal(weight.shape))
            model.compile(keras.optimizers.SGD(0.125), "mse")
        data = tf.data.Dataset.from_tensor_slices((ROWS, LABELS, weights)).batch(7)
        model.fit(data, epochs=3, verbose=0)
        found.append([*model.get_weights(), model.predict(ROWS, verbose=0)])
    for expected, value in zip(*found, strict=True):
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-14)


def test_a_part_with_other_rows_is_refused_by_name(strategy) -> None:
    def batches() -> Any:
        yield {"a": ROWS[:8], "b": ROWS[:7]}, LABELS[:8]

    spec = {"a": tf.TensorSpec([None, 4]), "b": tf.TensorSpec([None, 4])}, tf.TensorSpec([None, 1])
    with strategy.scope():
        inputs = {name: keras.layers.Input((4,), name=name) for name in ("a", "b")}
        model = keras.Model(inputs, keras.layers.Dense(1)(inputs["a"]) + keras.layers.Dense(1)(inputs["b"]))
        model.compile("sgd", "mse")
    with pytest.raises(DataError, match=r"'x\[b\]' has 7 rows in a batch in which 'x\[a\]' has 8"):
        model.fit(tf.data.Dataset.from_generator(batches, output_signature=spec), verbose=0)


def test_a_stateful_layer_is_refused_by_name() -> None:
    strategy = create_strategy("mirrored", devices=2)
    with strategy.scope():
        layers = [keras.layers.LSTM(2, stateful=True, name="memory"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input(batch_shape=(4, 3, 2)), *layers])
        model.compile("sgd", "mse")
    with pytest.raises(UnsupportedError, match="'memory' has stateful=True.*one_device"):
        model.fit(np.ones((8, 3, 2)), np.ones((8, 1)), batch_size=4, verbose=0)
