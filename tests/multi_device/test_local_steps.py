"""`fit` with local steps on two replicas, held against the same in NumPy; what is read within a round; what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from local_oracle import LocalTraining, Outer, local_training

from tfdist import create_strategy

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((43, 4))
Y = GENERATOR.standard_normal((43, 2))
WEIGHTS = GENERATOR.standard_normal((4, 2))


def _strategy(**options: Any) -> Any:
    return create_strategy("mirrored", devices=2, **options)


def _model(strategy: Any, optimizer: Callable[[], Any], **compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layer = keras.layers.Dense(2, use_bias=False, dtype="float64")
        model = keras.Sequential([keras.layers.Input((4,), dtype="float64"), layer])
        layer.kernel.assign(WEIGHTS)
        model.compile(optimizer(), "mse", **compiled)
    return model


def _copies(variable: Any) -> list[np.ndarray]:
    return [copy.numpy() for copy in variable._value.values]


def _assert_alike(variables: Any) -> None:
    for variable in variables:
        first, second = _copies(variable)
        np.testing.assert_array_equal(first, second, variable.path)


def _decay(update: int) -> float:
    return 0.1 * 0.5 ** (update // 3)


def _decayed() -> Any:
    return keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5, staircase=True)


# Name -> rows, global batch, options of the strategy, the optimizer, options of compile, and the same of the oracle. An
# epoch of 40 rows has 5 steps, so that its last round is shorter than the others; one of 43 rows has an uneven batch of
# 3, and one of 41 a batch in which the first replica has no row.
CASES: dict[str, tuple[int, dict[str, Any], Callable[[], Any], dict[str, Any], dict[str, Any]]] = {
    "sgd": (43, {"local_steps": 4}, lambda: keras.optimizers.SGD(0.1), {}, {"num_updates": 4}),
    "eager": (
        40,
        {"local_steps": 3},
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        {"run_eagerly": True},
        {"num_updates": 3, "optimizer": "momentum"},
    ),
    "a replica without rows": (
        41,
        {"local_steps": 3},
        lambda: keras.optimizers.SGD(0.1),
        {},
        {"num_updates": 3},
    ),
    "adam, clipped": (
        40,
        {"local_steps": 3},
        lambda: keras.optimizers.Adam(0.1, clipnorm=0.2),
        {},
        {"num_updates": 3, "optimizer": "adam", "clipnorm": 0.2},
    ),
    "slow momentum, with a schedule": (
        43,
        {"local_steps": 2, "outer_optimizer": "slow_momentum", "outer_momentum": 0.6},
        lambda: keras.optimizers.SGD(_decayed(), momentum=0.9),
        {},
        {
            "num_updates": 2,
            "optimizer": "momentum",
            "learning_rate": _decay,
            "outer": Outer("slow_momentum", 1.0, 0.6),
        },
    ),
    "nesterov, several steps in one execution": (
        43,
        {"local_steps": 2, "outer_optimizer": "nesterov", "outer_learning_rate": 0.5, "outer_momentum": 0.8},
        lambda: keras.optimizers.Adam(0.1),
        {"steps_per_execution": 3},
        {"num_updates": 2, "optimizer": "adam", "outer": Outer("nesterov", 0.5, 0.8)},
    ),
    "accumulated": (
        40,
        {"local_steps": 2},
        lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
        {},
        {"num_updates": 2, "accumulation": 2},
    ),
    "rounds of one step": (
        43,
        {"local_steps": 1, "outer_optimizer": "nesterov"},
        lambda: keras.optimizers.SGD(0.1),
        {},
        {"num_updates": 1, "outer": Outer("nesterov", 0.7, 0.9)},
    ),
}


def _oracle(**options: Any) -> LocalTraining:
    return local_training(WEIGHTS, 2, **options)


@pytest.mark.parametrize("name", CASES)
def test_fit_is_the_same_in_numpy(name: str) -> None:
    rows, options, optimizer, compiled, expected = CASES[name]
    strategy, oracle = _strategy(**options), _oracle(**expected)
    model = _model(strategy, optimizer, **compiled)
    x, y = X[:rows], Y[:rows]
    history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for _ in range(2):
        oracle.epoch(x, y, 8)
    # Keras keeps learning rates in float32.
    np.testing.assert_allclose(model.get_weights()[0], oracle.replicas[0].weights, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(history.history["loss"], oracle.losses, rtol=1e-5)
    assert int(model.optimizer.iterations) == oracle.replicas[0].updates
    figures = strategy.figures(model)
    assert figures["local_steps/synchronizations"] == oracle.num_synchronizations
    np.testing.assert_allclose(figures["local_steps/drift"], oracle.drift, rtol=1e-4, atol=1e-7)
    _assert_alike([*model.trainable_variables, *model.optimizer.variables])


def test_data_that_end_where_a_round_does() -> None:
    """Nobody knows their length, so that a round is begun and has no step."""

    def batches() -> Iterator[Any]:
        for start in range(0, 43, 8):
            yield X[start : start + 8], Y[start : start + 8]

    spec = tf.TensorSpec([None, 4], tf.float64), tf.TensorSpec([None, 2], tf.float64)
    data = tf.data.Dataset.from_generator(batches, output_signature=spec)
    strategy, oracle = _strategy(local_steps=3), _oracle(num_updates=3)
    model = _model(strategy, lambda: keras.optimizers.SGD(0.1))
    model.fit(data, epochs=2, verbose=0)
    for _ in range(2):
        oracle.epoch(X, Y, 8)
    np.testing.assert_allclose(model.get_weights()[0], oracle.replicas[0].weights, rtol=1e-6)
    assert strategy.figures(model)["local_steps/synchronizations"] == 4


def test_one_local_step_is_synchronous_training() -> None:
    """Plain averaging after each update is left to the sum of the gradients, which costs as much and is exact."""
    found = []
    for options in ({}, {"local_steps": 1}):
        strategy = _strategy(**options)
        model = _model(strategy, lambda: keras.optimizers.Adam(0.1))
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
        found.append(model.get_weights()[0])
        assert strategy.local_steps is None and strategy.describe() == "mirrored"
    np.testing.assert_array_equal(*found)


class Reads(keras.callbacks.Callback):
    """Reads the weights after some batches, and looks at the copies where the training of an epoch has ended."""

    def __init__(self, batches: tuple[int, ...], slots_too: tuple[int, ...]) -> None:
        super().__init__()
        self.batches, self.slots_too = batches, slots_too
        self.seen: list[np.ndarray] = []
        self.ends = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch in self.batches:
            self.seen.append(self.model.get_weights()[0])
            _assert_alike(self.model.trainable_variables)
        if batch in self.slots_too:
            self.model.optimizer.variables[2].numpy()
            _assert_alike(self.model.optimizer.variables)

    def on_test_begin(self, logs: Any = None) -> None:
        self.ends += 1
        _assert_alike(self.model.trainable_variables)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.ends += 1
        _assert_alike(self.model.trainable_variables)


def test_what_is_read_within_a_round_ends_it() -> None:
    strategy, oracle = _strategy(local_steps=4), _oracle(num_updates=4, optimizer="adam")
    model = _model(strategy, lambda: keras.optimizers.Adam(0.1))
    reads = Reads((1, 4), (4,))
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0, validation_data=(X, Y), callbacks=[reads])
    for number, start in enumerate(range(0, len(X), 8)):
        oracle.step(X[start : start + 8], Y[start : start + 8])
        if number in (1, 4):
            oracle.synchronize()
            np.testing.assert_allclose(reads.seen.pop(0), oracle.replicas[0].weights, rtol=1e-6)
        if number == 4:
            oracle.average_slots()
    oracle.synchronize()
    np.testing.assert_allclose(model.get_weights()[0], oracle.replicas[0].weights, rtol=1e-6)
    assert reads.ends == 2


def test_a_batch_by_hand_and_what_follows_it() -> None:
    """`train_on_batch` makes local steps; evaluating, predicting and saving see the average."""
    strategy, oracle = _strategy(local_steps=3), _oracle(num_updates=3)
    model = _model(strategy, lambda: keras.optimizers.SGD(0.1))
    for _ in range(2):
        model.train_on_batch(X[:8], Y[:8])
        oracle.step(X[:8], Y[:8])
    first, second = _copies(model.layers[0].kernel)
    np.testing.assert_allclose(first, oracle.replicas[0].weights, rtol=1e-6)
    np.testing.assert_allclose(second, oracle.replicas[1].weights, rtol=1e-6)
    assert not np.allclose(first, second)
    oracle.synchronize()
    np.testing.assert_allclose(model.predict_on_batch(X[:8]), X[:8] @ oracle.replicas[0].weights, rtol=1e-5)
    model.train_on_batch(X[:8], Y[:8])
    oracle.step(X[:8], Y[:8])
    oracle.synchronize()
    expected = np.mean((X @ oracle.replicas[0].weights - Y) ** 2)
    np.testing.assert_allclose(model.evaluate(X, Y, verbose=0), expected, rtol=1e-5)
