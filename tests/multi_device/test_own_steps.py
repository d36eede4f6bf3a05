"""The words of `tfdist.own_steps`: what they refuse, what they cost, and the aggregation that a variable names."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.errors import UnsupportedError
from tfdist.numerics import FLOAT16_TOLERANCE, RELATIVE_TOLERANCE
from tfdist.parity.cases.own.clipping import Clipped
from tfdist.parity.cases.own.queue import MomentumContrast
from tfdist.parity.inspection import count_collectives
from tfdist.strategies.mirrored import Mirrored


@pytest.fixture(scope="module")
def strategy() -> tf.distribute.Strategy:
    return tfdist.create_strategy("mirrored", devices=2)


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    features = np.arange(4 * count, dtype="float32").reshape(count, 4) / count
    return features, np.ones((count, 2), "float32")


def fitted(
    strategy: tf.distribute.Strategy,
    kind: Any,
    *layers: Any,
    count: int = 7,
    loss: Any = "mse",
    **options: Any,
) -> Any:
    with strategy.scope():
        model = kind([keras.Input((4,)), *(layer() for layer in layers), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.1), loss, **options)
    model.fit(*rows(count), batch_size=4, verbose=0, shuffle=False)
    return model


def step_that(word: Any) -> type[keras.Sequential]:
    class Own(keras.Sequential):
        def train_step(self, data: Any) -> Any:
            word(*data)
            return {"loss": tf.constant(0.0)}

    return Own


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (lambda x, y: tfdist.mean_over_rows(tf.reduce_mean(x)), r"shape \(\) was given.*by row"),
        (lambda x, y: tfdist.gather_rows(tf.strings.as_string(x)), "dtype string was given.*ids"),
    ],
)
def test_what_has_no_rows_is_refused(strategy: Any, word: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        fitted(strategy, step_that(word), count=8)


def test_other_numbers_of_rows_are_found_in_the_step(strategy: Any) -> None:
    # Batches may differ in size, so that this is known only while a step runs.
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="another number of rows than the part of the batch"
    ):
        fitted(strategy, step_that(lambda x, y: tfdist.sum_over_rows(tf.concat([x, x], 0))))


def test_replicas_outside_of_a_step_are_told_so(strategy: Any) -> None:
    with pytest.raises(UnsupportedError, match=r"tfdist.gather_rows was called by one of 2 replicas outside"):
        strategy.run(lambda: tfdist.gather_rows(tf.ones([2, 2])))


def test_on_one_device_the_words_are_what_they_say() -> None:
    values = tf.constant([[1.0, 2.0], [3.0, 6.0]])
    assert tfdist.gather_rows([values])[0] is values
    assert tfdist.sum_gradients((values, None)) == [values, None]
    np.testing.assert_array_equal(tfdist.mean_over_rows(values), [2, 4])
    np.testing.assert_array_equal(tfdist.sum_over_rows(values), [4, 8])
    np.testing.assert_array_equal(tfdist.mean_over_rows(tf.constant([True, False])), 0.5)


def test_what_is_the_same_on_all_replicas_is_not_exchanged(strategy: Any) -> None:
    # On each of two devices: one for the gradients, which were summed and clipped, and one for the logs.
    assert count_collectives(fitted(strategy, Clipped)) == 2 * 2
    with strategy.scope():
        encoders = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]) for _ in range(2)]
        model = MomentumContrast(*encoders, size=8)
        model.compile(keras.optimizers.SGD(0.1))
    model.fit(*2 * rows(7)[:1], batch_size=4, verbose=0)
    # One more for the keys, and none for the slow encoder, the queue and the place in it.
    assert count_collectives(model) == 2 * 3


def test_the_gathered_types_and_order(strategy: Any) -> None:
    seen = []

    def gather(x: Any, y: Any) -> None:
        place = tf.cast(x[:, 0], tf.int32)
        gathered = tfdist.gather_rows(
            {"b": place > 3, "h": tf.cast(x, tf.bfloat16), "i": tf.cast(place, tf.uint8)}
        )
        seen.append({key: (value.dtype, value.shape) for key, value in gathered.items()})
        tf.debugging.assert_equal(
            tf.cast(gathered["i"], tf.float32), tf.floor(tf.cast(gathered["h"][:, 0], tf.float32))
        )
        first = tf.cast(gathered["i"], tf.int32)
        tf.debugging.assert_equal(first, tf.sort(first))
        tf.debugging.assert_equal(gathered["b"], first > 3)

    with strategy.scope():
        model = step_that(gather)([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile()
    model.fit(
        np.arange(7, dtype="float32")[:, None], np.zeros((7, 1)), batch_size=4, verbose=0, shuffle=False
    )
    assert seen[0]["b"] == (tf.bool, [None]) and seen[0]["h"] == (tf.bfloat16, [None, 1])


def test_a_loss_called_by_hand_is_not_divided(strategy: Any) -> None:
    with strategy.scope():
        loss = keras.losses.MeanSquaredError()
        by_hand = float(loss(tf.zeros([4, 2]), tf.ones([4, 2])))
        in_function = float(tf.function(lambda: loss(tf.zeros([4, 2]), tf.ones([4, 2])))())
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.compile("sgd", ["mse"], run_eagerly=False)
        compiled = float(model.compute_loss(y=tf.zeros([4, 2]), y_pred=tf.ones([4, 2])))
    assert (by_hand, in_function, compiled) == (1.0, 1.0, 1.0)


class StaticMirrored(Mirrored):
    """Batches padded to one shape, as for a TPU."""

    pads_batches = True


@pytest.mark.parametrize("kind", ["padded", "distributed by the user", "accumulated in half precision"])
def test_the_whole_batch_of_every_kind_of_step(strategy: Any, kind: str) -> None:
    def result(on: Any) -> np.ndarray:
        keras.utils.set_random_seed(1)
        with on.scope():
            half = keras.DTypePolicy("mixed_float16" if kind.startswith("acc") else "float32")
            layers = [keras.Input((4,)), keras.layers.Dense(2, activation="sigmoid", dtype=half)]
            model = keras.Sequential(layers)
            optimizer = keras.optimizers.SGD(
                0.5, gradient_accumulation_steps=2 if kind.startswith("acc") else None
            )
            model.compile(
                keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0), keras.losses.Dice()
            )
        features, _ = rows(11)
        labels = (features[:, :2] > 1).astype("float32")
        dataset = tf.data.Dataset.from_tensor_slices((features, labels)).batch(4)
        if kind.startswith("dist"):
            dataset = on.experimental_distribute_dataset(dataset)
        model.fit(dataset, epochs=2, verbose=0)
        return np.concatenate([value.ravel() for value in model.get_weights()])

    one_device = result(tfdist.create_strategy("one_device"))
    found = result(StaticMirrored(2) if kind == "padded" else strategy)
    np.testing.assert_allclose(
        found, one_device, atol=FLOAT16_TOLERANCE if kind.startswith("acc") else RELATIVE_TOLERANCE
    )


def test_what_xla_cannot_compile_is_told(strategy: Any) -> None:
    with pytest.raises(UnsupportedError, match="a loss on the whole batch.*jit_compile=False"):
        fitted(strategy, keras.Sequential, loss=keras.losses.Dice(), jit_compile=True)


class State(keras.layers.Layer):
    """Writes the mean of its rows, in whatever way they are aggregated."""

    def build(self, shape: Any) -> None:
        first = {"trainable": False, "shape": (), "initializer": "zeros", "aggregation": "only_first_replica"}
        self.first = self.add_weight(name="first", **first)
        self.number = self.add_weight(name="number", **first | {"dtype": "int32"})
        self.rounded = self.add_weight(name="rounded", **first | {"dtype": "int32", "aggregation": "mean"})

    def call(self, inputs: Any) -> Any:
        mean = keras.ops.mean(inputs[:, 0])
        self.first.assign(mean)
        self.number.assign(keras.ops.cast(10 * mean, "int32"))
        self.rounded.assign(keras.ops.cast(10 * mean, "int32"))
        return inputs


class Last(keras.metrics.Metric):
    """The first label of the rows, as the first replica sees it, and their mean where nothing is named."""

    def __init__(self) -> None:
        super().__init__(name="last")
        self.first = self.add_variable((), "zeros", aggregation="only_first_replica", name="first")
        self.mean = self.add_variable((), "zeros", aggregation="none", name="mean")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.first.assign(y_true[0, 0])
        self.mean.assign(keras.ops.mean(y_true[:, 0]))

    def result(self) -> Any:
        return {
            "first": keras.ops.convert_to_tensor(self.first),
            "mean": keras.ops.convert_to_tensor(self.mean),
        }


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_what_a_variable_names_is_what_it_gets(strategy: Any, run_eagerly: bool) -> None:
    with strategy.scope():
        state = State()
        model = keras.Sequential([keras.Input((1,)), state, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.0), "mse", metrics=[Last()], run_eagerly=run_eagerly)
    features = np.arange(5, dtype="float32")[:, None]
    logs = model.fit(features, features, batch_size=5, verbose=0, shuffle=False).history
    # Two rows for the first replica, three for the second.
    assert [float(v) for v in strategy.experimental_local_results(state.first.value)] == [0.5, 0.5]
    assert [int(v) for v in strategy.experimental_local_results(state.number.value)] == [5, 5]
    assert [int(v) for v in strategy.experimental_local_results(state.rounded.value)] == [20, 20]
    assert (logs["first"], logs["mean"]) == ([0.0], [2.0])
