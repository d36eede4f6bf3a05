"""An update that replicas divide is bit for bit the one that each would repeat; it is divided where it may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

import tfdist
from tfdist._internals.fit.execution.divided import Division
from tfdist._internals.step import compiled_update
from tfdist._internals.step.repeated_rows import set_repeated_rows
from tfdist.numerics import RELATIVE_TOLERANCE, relative_difference

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "momentum": lambda: optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "adamw": lambda: optimizers.AdamW(optimizers.schedules.CosineDecay(0.01, 10), 0.1, global_clipnorm=0.1),
    "nadam": lambda: optimizers.Nadam(0.01, clipnorm=1.0),
    "lion": lambda: optimizers.Lion(0.001, weight_decay=0.1),
    "ftrl": lambda: optimizers.Ftrl(0.1),
    "adafactor": lambda: optimizers.Adafactor(0.01),
    "muon": lambda: optimizers.Muon(0.01),
}


@pytest.fixture(autouse=True)
def _rows_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_update, "_LARGE_TABLE", 1)


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Who has updated each variable."""
    found: dict[str, int] = {}
    stock = Division.hand_over

    def hand_over(self: Division) -> None:
        found.update({variable.name: owner for variable, owner in self._owners.values()})
        stock(self)

    monkeypatch.setattr(Division, "hand_over", hand_over)
    return found


def strategy_of(devices: int = 2, **options: Any) -> Any:
    options = {"compiled_update": True, "repeated_rows": "sum", **options}
    return tfdist.create_strategy("mirrored", devices=devices, **options)


def layers() -> list[Any]:
    return [
        keras.layers.Embedding(200, 96),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(192, activation="tanh"),
        keras.layers.LayerNormalization(),
        keras.layers.Dense(192, activation="tanh"),
        keras.layers.Dense(2),
    ]


def build(optimizer: Any, kind: Any = keras.Sequential, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    made = kind([keras.Input((6,), dtype="int32"), *layers()])
    made.compile(optimizer(), "mse", **{"metrics": ["mae"], **options})
    return made


def data(rows: int = 22) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.integers(0, 40, (rows, 6)), generator.normal(size=(rows, 2))


def fit(model: keras.Model, epochs: int = 2) -> dict[str, list[float]]:
    # In a loop of steps the rows of a table are gathered for batches of one size.
    rows = 22 if model.steps_per_execution == 1 else 24
    history = model.fit(*data(rows), batch_size=8, epochs=epochs, shuffle=False, verbose=0).history
    return {key: list(map(float, values)) for key, values in history.items()}


def fitted(strategy: Any, optimizer: Any, **options: Any) -> tuple[keras.Model, Any]:
    with strategy.scope():
        model = build(optimizer, **options)
    return model, fit(model)


def copies(variable: Any) -> list[np.ndarray]:
    """Returns the value of a Keras variable on each replica."""
    strategy = variable.value.distribute_strategy
    return [one.numpy() for one in strategy.experimental_local_results(variable.value)]


def state(model: keras.Model) -> list[Any]:
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return [*model.weights, *optimizer.variables]


def assert_copies_equal(model: keras.Model) -> None:
    for variable in state(model):
        first, *others = copies(variable)
        assert first.shape == tuple(variable.shape)
        for other in others:
            np.testing.assert_array_equal(first, other, variable.path)


def assert_equal(found: keras.Model, expected: keras.Model) -> None:
    assert_copies_equal(found)
    for one, other in zip(state(found), state(expected), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), one.path)


def repeating(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on each replica makes the whole update."""
    monkeypatch.setattr(Division, "divides", lambda self, optimizer: False)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_repeated_update(
    name: str, owners: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = strategy_of(self_check="on" if name == "adamw" else "off")
    found, logs = fitted(strategy, OPTIMIZERS[name])
    assert set(owners.values()) == {0, 1}
    repeating(monkeypatch)
    expected, expected_logs = fitted(strategy, OPTIMIZERS[name])
    assert_equal(found, expected)
    assert logs == expected_logs
    assert found.evaluate(*data(), verbose=0) == expected.evaluate(*data(), verbose=0)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 3),
        ({"devices": 3}, 3),
        ({"devices": 3}, 1),
        ({"communication_dtype": "bfloat16"}, 1),
        ({"gradient_compression": "powersgd"}, 1),
    ],
    ids=["loop", "three in a loop", "three", "bfloat16", "powersgd"],
)
def test_it_is_with_other_replicas_sums_and_loops(
    options: dict[str, Any], steps: int, owners: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = strategy_of(**options)
    found, _ = fitted(strategy, OPTIMIZERS["adamw"], steps_per_execution=steps)
    assert set(owners.values()) == set(range(strategy.num_replicas_in_sync))
    repeating(monkeypatch)
    expected, _ = fitted(strategy, OPTIMIZERS["adamw"], steps_per_execution=steps)
    if "devices" in options:  # two sums of three numbers may be in another order
        assert_copies_equal(found)
        for one, other in zip(state(found), state(expected), strict=True):
            assert relative_difference(one.numpy(), other.numpy()) <= RELATIVE_TOLERANCE
    else:
        assert_equal(found, expected)


def test_without_handing_over_the_copies_would_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Division, "hand_over", lambda self: None)
    found, _ = fitted(strategy_of(), lambda: optimizers.SGD(0.1))
    with pytest.raises(AssertionError):
        assert_copies_equal(found)


class OwnStep(keras.Sequential):
    """Reads the weights after the update, as one device sees them."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        logs = super().train_step(batch)
        return {**logs, "norm": tf.add_n([tf.nn.l2_loss(one) for one in self.trainable_weights])}


class Norm(keras.metrics.Metric):
    """Reads a weight when its result is asked for."""

    weight: Any = None

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        pass

    def result(self) -> Any:
        return tf.nn.l2_loss(tf.convert_to_tensor(Norm.weight))


class OwnUpdate(optimizers.SGD):
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(2.0 * gradient, variable, learning_rate)


class Constrained(keras.Sequential):
    def build(self, shape: Any = None) -> None:
        super().build(shape)
        self.layers[2].kernel.constraint = keras.constraints.MaxNorm(1.0)


REPEATED: dict[str, dict[str, Any]] = {
    "own step": {"kind": OwnStep},
    "constraint": {"kind": Constrained},
    "average": {"optimizer": lambda: optimizers.Adam(0.01, use_ema=True)},
    "accumulation": {"optimizer": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2)},
    "loss scale": {"optimizer": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.01))},
    "own update": {"optimizer": lambda: OwnUpdate(0.01)},
    "metric": {},
}


@pytest.mark.parametrize("name", REPEATED)
def test_it_is_not_where_weights_are_read_after_the_update(name: str, owners: dict[str, int]) -> None:
    options = {"optimizer": OPTIMIZERS["momentum"], **REPEATED[name]}
    set_repeated_rows(tf.distribute.get_strategy(), "sum")
    found, expected = [], []
    for strategy, logs in ((strategy_of(), found), (tf.distribute.get_strategy(), expected)):
        with strategy.scope():
            metric = [Norm(name="norm")] if name == "metric" else []
            model = build(**options, metrics=metric)
            Norm.weight = model.trainable_weights[0]
        history = fit(model)
        logs.append(history)
        logs.append([one.numpy() for one in model.weights])
    assert not owners
    for key, values in expected[0].items():
        assert relative_difference(np.array(found[0][key]), np.array(values)) <= RELATIVE_TOLERANCE, key
    for one, other in zip(found[1], expected[1], strict=True):
        assert relative_difference(one, other) <= RELATIVE_TOLERANCE


def test_it_is_not_with_local_steps_or_in_eager_steps(owners: dict[str, int]) -> None:
    fitted(strategy_of(local_steps=2), OPTIMIZERS["momentum"])
    fitted(strategy_of(compiled_update=False), OPTIMIZERS["momentum"])
    fitted(strategy_of(), OPTIMIZERS["momentum"], run_eagerly=True)
    assert not owners


def test_copies_have_their_memory_in_common_until_one_is_written(owners: dict[str, int]) -> None:
    strategy = strategy_of()
    model, _ = fitted(strategy, OPTIMIZERS["adamw"])
    shared = [one for one in state(model) if one.value.name in owners]
    assert len(shared) == 9  # a table and two matrices, with two slots each
    for variable in shared:
        first, second = strategy.experimental_local_results(variable.value)
        before = first.numpy()
        second.assign_add(tf.ones_like(second))
        second.scatter_update(tf.IndexedSlices(tf.zeros([1, before.shape[1]]), [3]))
        np.testing.assert_array_equal(first.numpy(), before)
        first.scatter_add(tf.IndexedSlices(tf.ones([1, before.shape[1]]), [4]))
        np.testing.assert_array_equal(second.numpy()[4], before[4] + 1)
        first.assign(before)
        second.assign(before)


def test_what_follows_is_as_after_the_repeated_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows: a loop of the user's own, a model that shares layers, weights that are set, and a checkpoint."""
    strategy = strategy_of()
    batch = tuple(map(tf.constant, data()))

    def trained() -> keras.Model:
        model, _ = fitted(strategy, OPTIMIZERS["adamw"])
        with strategy.scope():
            other = keras.Sequential(model.layers[:-1] + [keras.layers.Dense(3)])
            other.compile(optimizers.Adam(0.01), "mse")

        def own_step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(model(x, training=True) - tf.cast(y, tf.float32)))
            gradients = tape.gradient(loss, model.trainable_weights)
            model.optimizer.apply(gradients, model.trainable_weights)

        own_loop = tf.function(lambda x, y: strategy.run(own_step, args=(x, y)), autograph=False)
        for _ in range(2):
            own_loop(*batch)
        assert_copies_equal(model)
        fit(model, 1)
        other.fit(data()[0], np.ones((22, 3)), batch_size=8, shuffle=False, verbose=0)
        model.set_weights([0.9 * one for one in model.get_weights()])
        fit(model, 1)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.keras"
        model.save(path)
        with strategy.scope():
            restored = keras.models.load_model(path)
        fit(restored, 1)
        assert_copies_equal(model)
        assert_copies_equal(other)
        return restored

    found = trained()
    repeating(monkeypatch)
    assert_equal(found, trained())


def test_after_a_step_that_fails_all_copies_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = strategy_of()
    stock = Division.hand_over

    def failing(self: Division) -> None:
        if tf.executing_eagerly():
            stock(self)
        else:
            tf.debugging.Assert(tf.constant(0.0) > tf.random.uniform([]), ["fails"])

    with strategy.scope():
        model = build(OPTIMIZERS["adamw"])
    monkeypatch.setattr(Division, "hand_over", failing)
    with pytest.raises(tf.errors.InvalidArgumentError, match="fails"):
        fit(model)
    for variable in model.optimizer.variables:
        assert [one.shape for one in copies(variable)] == [tuple(variable.shape)] * 2
