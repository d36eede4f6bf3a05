"""Under `one_device` TensorFlow's default strategy is in force, and no patch acts."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist._internals.contract import current_step, distribution_of
from tfdist._internals.patches import apply_patches, list_patches


@pytest.fixture
def stock():
    """Takes all patches out, and puts them back."""
    for patch in list_patches():
        patch.revert()
    yield
    apply_patches()


def build() -> keras.Model:
    """A model that comes by most of what is patched."""
    keras.utils.set_random_seed(0)
    ids, features = keras.Input((4,), dtype="int32"), keras.Input((6, 6, 2))
    embedded = keras.layers.LSTM(3)(keras.layers.Embedding(9, 4, mask_zero=True)(ids))
    pooled = keras.layers.MaxPooling2D(2)(keras.layers.Conv2D(2, 3)(features))
    joined = keras.layers.Concatenate()([embedded, keras.layers.Flatten()(pooled)])
    joined = keras.layers.BatchNormalization(synchronized=True)(joined)
    joined = keras.layers.GaussianNoise(0.1)(keras.layers.Dropout(0.5)(joined))
    model = keras.Model([ids, features], keras.layers.Dense(3)(joined))
    model.compile(
        keras.optimizers.LossScaleOptimizer(
            keras.optimizers.Adam(0.05, global_clipnorm=0.5, gradient_accumulation_steps=2)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def trained() -> dict[str, np.ndarray]:
    model = build()
    generator = np.random.default_rng(0)
    inputs = [generator.integers(0, 9, (21, 4)), generator.standard_normal((21, 6, 6, 2)).astype("float32")]
    labels = generator.integers(0, 3, 21)
    history = model.fit(inputs, labels, batch_size=8, epochs=2, verbose=0).history
    found = {f"weight {index}": value for index, value in enumerate(model.get_weights())}
    found |= {
        f"slot {index}": np.asarray(variable) for index, variable in enumerate(model.optimizer.variables)
    }
    found["evaluate"] = np.asarray(model.evaluate(inputs, labels, batch_size=8, verbose=0))
    found["predict"] = model.predict(inputs, batch_size=8, verbose=0)
    return found | {name: np.asarray(values) for name, values in history.items()}


def test_it_is_the_default_strategy():
    strategy = tfdist.create_strategy("one_device")
    assert strategy is tf.distribute.get_strategy()
    assert not tf.distribute.has_strategy()
    assert distribution_of(strategy) is None
    with strategy.scope():
        assert not tf.distribute.has_strategy()


def test_no_step_is_ever_open():
    seen = []

    class Observer(keras.layers.Layer):
        def call(self, inputs):
            seen.append(current_step())
            return inputs

    with tfdist.create_strategy("one_device").scope():
        model = keras.Sequential([keras.Input((2,)), Observer(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    seen.clear()
    model.fit(np.ones((5, 2)), np.ones((5, 1)), batch_size=2, verbose=0)
    assert seen and set(seen) == {None}


def test_patches_do_nothing(stock):
    expected = trained()
    strategy = tfdist.create_strategy("one_device")
    assert all(patch.active for patch in list_patches())
    with strategy.scope():
        found = trained()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
