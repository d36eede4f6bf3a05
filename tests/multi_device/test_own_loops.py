"""Loops of the user's own, with `strategy.run`, as TensorFlow's guide to custom training loops writes them."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.errors import UnsupportedError

ROWS = 12


def rows() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 6, (ROWS, 3), dtype=np.int32)
    # The replicas' gradients are of other sizes, so that clipping each part shows.
    return ids, (generator.standard_normal((ROWS, 2)) * np.repeat([1.0, 9.0], ROWS // 2)[:, None]).astype(
        "f4"
    )


def trained(strategy: Any, options: dict[str, float]) -> list[np.ndarray]:
    """Returns the weights after three steps of a loop on the host's batches."""
    keras.utils.set_random_seed(0)
    with strategy.scope() if strategy else contextlib.nullcontext():
        layers = [keras.layers.Embedding(6, 4), keras.layers.Flatten(), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((3,), dtype="int32"), *layers])
        optimizer = keras.optimizers.SGD(0.5, momentum=0.5, **options)
        optimizer.build(model.trainable_variables)

    def step(data: Any) -> None:
        ids, targets = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(ids, training=True) - targets)) / ROWS
        gradients = tape.gradient(loss, model.trainable_variables)
        # Dense gradients, since one device clips repeated rows one by one.
        gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    data = tf.data.Dataset.from_tensor_slices(rows()).batch(ROWS).repeat(3)
    if strategy is None:
        for batch in data:
            step(batch)
    else:
        run = tf.function(lambda batch: strategy.run(step, args=(batch,)))
        for batch in strategy.experimental_distribute_dataset(data):
            run(batch)
    return [np.asarray(weight) for weight in model.get_weights()]


@pytest.mark.parametrize("options", [{}, {"global_clipnorm": 0.3}, {"clipnorm": 0.2}, {"clipvalue": 0.05}])
def test_clipping_is_of_the_sum(options: dict[str, float]) -> None:
    strategy = tfdist.create_strategy("mirrored", devices=2)
    for found, expected in zip(trained(strategy, options), trained(None, options), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_mesh_has_no_pieces_for_a_loop() -> None:
    strategy = tfdist.create_strategy("mesh", mesh={"batch": 2})
    data = tf.data.Dataset.from_tensor_slices(rows()).batch(ROWS)
    for call in (
        lambda: strategy.experimental_distribute_dataset(data),
        lambda: strategy.distribute_datasets_from_function(lambda _: data),
    ):
        with pytest.raises(UnsupportedError, match="train_step of a keras.Model, and call fit"):
            call()


def test_a_tape_in_a_compiled_function_of_no_step_is_told_what_to_write() -> None:
    """Keras says "No gradients provided" there. Without tf.function the same step trains."""
    strategy = tfdist.create_strategy("mesh", mesh={"batch": 2})
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.5), "mse")

    def step(inputs: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(inputs))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    before = model.get_weights()
    with pytest.raises(UnsupportedError, match="kernel.*Write the step as the model's train_step"):
        tf.function(step, autograph=False)(tf.ones((4, 3)))
    step(tf.ones((4, 3)))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old - 2.0, rtol=1e-6)
