"""The update that XLA compiles gives what plain Keras gives, for every optimizer, and is used where it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

import tfdist
from tfdist._internals.step import compiled_update, update_rows
from tfdist._internals.step.compiled_update import is_compiled, set_compiled_update
from tfdist._internals.step.repeated_rows import as_chosen, set_repeated_rows
from tfdist._internals.step.update_programs import num_programs
from tfdist.errors import ConfigError
from tfdist.numerics import RELATIVE_TOLERANCE, relative_difference

STEPS = 4

# Those of the second group look at whole arrays, so that rows of a table cannot be updated apart.
BY_ELEMENT: dict[str, Callable[[], Any]] = {
    "sgd": lambda: optimizers.SGD(0.1, weight_decay=0.01),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "adam": lambda: optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: optimizers.AdamW(optimizers.schedules.CosineDecay(0.01, 10), global_clipnorm=1.0),
    "clipped": lambda: optimizers.Adam(0.01, clipnorm=1.0),
    "adadelta": lambda: optimizers.Adadelta(0.5),
    "adagrad": lambda: optimizers.Adagrad(0.1),
    "adamax": lambda: optimizers.Adamax(0.01),
    "nadam": lambda: optimizers.Nadam(0.01),
    "ftrl": lambda: optimizers.Ftrl(0.1),
    "lion": lambda: optimizers.Lion(0.001, weight_decay=0.1),
}
BY_ARRAY: dict[str, Callable[[], Any]] = {
    "adafactor": lambda: optimizers.Adafactor(0.01),
    "lamb": lambda: optimizers.Lamb(0.01),
    "muon": lambda: optimizers.Muon(0.01),
}


def updated(optimizer: Any, choice: bool, rows: str = "sum") -> tuple[list[np.ndarray], int]:
    """Runs a few updates of a table with repeated rows, a matrix and a bias; returns all state and the programs."""
    default = tf.distribute.get_strategy()
    set_compiled_update(default, choice)
    set_repeated_rows(default, rows)
    generator = np.random.default_rng(0)
    shapes = {"table": (200, 96), "kernel": (160, 128), "bias": (128,)}
    variables = [
        keras.Variable(generator.normal(size=shape).astype("float32"), name=name)
        for name, shape in shapes.items()
    ]
    optimizer.build(variables)

    @tf.function(autograph=False)
    def step(ids: Any, values: Any, kernel: Any, bias: Any) -> None:
        slices = tf.IndexedSlices(values, ids, tf.constant(shapes["table"], tf.int64))
        optimizer.apply([slices, kernel, bias], variables)

    for _ in range(STEPS):
        ids = tf.constant(generator.integers(0, 20, 30), tf.int64)
        given = [generator.normal(size=shape).astype("float32") for shape in ((30, 96), (160, 128), (128,))]
        step(ids, *map(tf.constant, given))
    state = [*variables, *optimizer.variables]
    return [keras.ops.convert_to_numpy(one) for one in state], num_programs(optimizer)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest number of the array: slots may be small."""
    return relative_difference(found, expected, float(np.abs(expected).max(initial=1e-9)))


def assert_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    differences = [difference(a, b) for a, b in zip(found, expected, strict=True)]
    assert max(differences) <= RELATIVE_TOLERANCE, differences


@pytest.fixture
def large_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Makes the table a large one; yields whether the rows of each table were updated apart."""
    tried: list[bool] = []

    def recorded(*args: Any) -> bool:
        tried.append(update_rows.update_rows_apart(*args))
        return tried[-1]

    monkeypatch.setattr(compiled_update, "_LARGE_TABLE", 1)
    monkeypatch.setattr(compiled_update, "update_rows_apart", recorded)
    tfdist.create_strategy("one_device")
    yield tried


@pytest.mark.parametrize("name", [*BY_ELEMENT, *BY_ARRAY])
def test_a_compiled_update_is_that_of_keras(name: str, large_tables: list[bool]) -> None:
    build = (BY_ELEMENT | BY_ARRAY)[name]
    expected, none = updated(build(), False)
    found, programs = updated(build(), True)
    assert none == 0
    assert programs >= 2  # the table's and the matrix's
    assert large_tables == [name in BY_ELEMENT]
    assert_same(found, expected)


@pytest.mark.parametrize("bound", [None, 1.0])
def test_slices_that_are_kept_are_treated_as_in_plain_keras(bound: float | None) -> None:
    tfdist.create_strategy("one_device")
    expected, _ = updated(optimizers.Adam(0.01, global_clipnorm=bound), False, "keep")
    found, programs = updated(optimizers.Adam(0.01, global_clipnorm=bound), True, "keep")
    summed, _ = updated(optimizers.Adam(0.01, global_clipnorm=bound), True, "sum")
    # Keras squares slices one by one. When it clips the global norm, it makes them dense.
    assert programs == (1 if bound is None else 2)
    assert_same(found, expected)
    assert bound is not None or difference(summed[0], expected[0]) > 1e-3


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_gradient_that_is_not_finite_makes_all_weights_so(value: float) -> None:
    tfdist.create_strategy("one_device", repeated_rows="sum", compiled_update=True)
    variable = keras.Variable(np.ones((160, 128), "float32"), name="kernel")
    optimizer = optimizers.Adam(0.01, global_clipnorm=1.0)
    optimizer.build([variable])
    gradient = np.ones((160, 128), "float32")
    gradient[3, 4] = value
    tf.function(lambda one: optimizer.apply([one], [variable]), autograph=False)(tf.constant(gradient))
    assert num_programs(optimizer) == 1
    assert np.isnan(variable.numpy()).all()


class InPython(optimizers.SGD):
    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        gradient = tf.ensure_shape(tf.numpy_function(np.sign, [gradient], tf.float32), gradient.shape)
        super().update_step(gradient, variable, learning_rate)


class OwnUpdate(optimizers.AdamW):
    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        super()._backend_update_step([2.0 * one for one in grads], trainable_variables, learning_rate)


class OwnApply(optimizers.AdamW):
    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        self._apply_weight_decay(trainable_variables)
        super().apply(grads, trainable_variables)


@pytest.mark.parametrize(("kind", "has_programs"), [(InPython, False), (OwnUpdate, False), (OwnApply, True)])
def test_an_optimizer_of_the_users_own(kind: Any, has_programs: bool) -> None:
    tfdist.create_strategy("one_device")
    options = {} if kind is InPython else {"weight_decay": 0.1}
    expected, _ = updated(kind(0.01, **options), False)
    found, programs = updated(kind(0.01, **options), True)
    assert bool(programs) == has_programs
    assert_same(found, expected)


def model(build: Callable[[], Any]) -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((6,), dtype="int32"),
        keras.layers.Embedding(200, 96),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(192, activation="tanh", kernel_constraint=keras.constraints.MaxNorm(1.0)),
        keras.layers.Dense(2),
    ]
    made = keras.Sequential(layers)
    made.compile(build(), "mse")
    return made


def fitted(strategy: tf.distribute.Strategy, build: Callable[[], Any]) -> keras.Model:
    generator = np.random.default_rng(0)
    with strategy.scope():
        made = model(build)
    ids, labels = generator.integers(0, 40, (22, 6)), generator.normal(size=(22, 2))
    made.fit(ids, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return made


@pytest.mark.parametrize(
    "build",
    [
        lambda: optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=0.1, use_ema=True),
        lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.01, gradient_accumulation_steps=2)),
    ],
    ids=["adamw", "scaled"],
)
def test_under_mirrored_it_is_that_of_one_device(
    build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_update, "_LARGE_TABLE", 1)
    strategy = tfdist.create_strategy(
        "mirrored", devices=2, compiled_update=True, repeated_rows="sum", self_check="on"
    )
    set_repeated_rows(tf.distribute.get_strategy(), "sum")
    found, expected = fitted(strategy, build), fitted(tf.distribute.get_strategy(), build)
    inner = getattr(found.optimizer, "inner_optimizer", found.optimizer)
    assert num_programs(inner)
    assert_same([one.numpy() for one in found.variables], [one.numpy() for one in expected.variables])
    first, second = (one.numpy() for one in strategy.experimental_local_results(found.weights[0].value))
    np.testing.assert_array_equal(first, second)


def test_by_itself_it_is_for_large_models_and_not_for_plain_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> bool:
        found = []

        @tf.function(autograph=False)
        def trace() -> None:
            found.append(is_compiled(optimizer))

        trace()
        return found[0]

    strategy = tfdist.create_strategy("one_device")
    optimizer = optimizers.SGD()
    optimizer.build([keras.Variable(np.zeros(10), name="small")])
    assert not asked()
    set_compiled_update(strategy, "auto")
    assert not asked()
    monkeypatch.setattr(compiled_update, "_FEWEST_WEIGHTS", 10)
    assert asked()
    assert not is_compiled(optimizer)  # outside of a function


def test_a_value_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="compiled_update='yes'.*True, False or 'auto'"):
        tfdist.create_strategy("one_device", compiled_update="yes")
    with pytest.raises(ConfigError, match="compiled_update=True is not possible under 'mesh'.*'auto'"):
        tfdist.create_strategy("mesh", mesh={"batch": 2}, compiled_update=True)


def test_rows_are_given_once_to_an_update_that_can_do_with_them() -> None:
    strategy = tfdist.create_strategy("one_device", repeated_rows="sum", compiled_update=True)
    optimizer = optimizers.SGD()
    optimizer.build([keras.Variable(np.zeros((5, 2), "float32"), name="table")])
    assert strategy is optimizer._distribution_strategy

    @tf.function(autograph=False)
    def given() -> Any:
        slices = tf.IndexedSlices(
            tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), tf.constant([4, 1, 4]), tf.constant([5, 2])
        )
        (found,) = as_chosen(optimizer, [slices])
        assert update_rows.has_summed_rows(found)
        assert not update_rows.has_summed_rows(slices)
        return found.indices, found.values

    indices, values = given()
    np.testing.assert_array_equal(indices, [4, 1])
    np.testing.assert_array_equal(values, [[6.0, 8.0], [3.0, 4.0]])
