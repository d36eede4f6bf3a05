"""`compile(jit_compile="auto")` trains with XLA if that is faster, and as if nothing had been tried before."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist._internals.fit.execution import choice
from tfdist.measure.step_probe import StepProbe
from tfdist.numerics import RELATIVE_TOLERANCE, relative_difference

ROWS = 22
STRATEGIES = {
    "mirrored": ("mirrored", {"devices": 2}),
    "one replica": ("mirrored", {"devices": 1}),
    "one_device": ("one_device", {"compiled_update": True}),
}


class Counting(keras.layers.Layer):
    """Counts its batches in a variable of TensorFlow's."""

    def build(self, shape: Any) -> None:
        self.batches = tf.Variable(0.0, trainable=False, aggregation=tf.VariableAggregation.MEAN)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.batches.assign_add(1.0)
        return x


def trained(strategy: Any, *layers: Any, **options: Any) -> tuple[keras.Model, Any]:
    """Returns a model that was trained, and its history."""
    keras.utils.set_random_seed(5)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(ROWS, 4)).astype("float32"), random.integers(0, 3, ROWS)
    with strategy.scope():
        body = [keras.layers.Dense(8, activation="relu"), *(make() for make in layers), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((4,)), *body])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], **options)
    history = model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model, history.history


def difference(model: keras.Model, other: keras.Model) -> float:
    own, others = ([*one.weights, *one.optimizer.variables] for one in (model, other))
    return max(relative_difference(a.numpy(), b.numpy()) for a, b in zip(own, others, strict=True))


@pytest.fixture
def strategy(request: Any) -> Any:
    name, options = request.param
    yield tfdist.create_strategy(name, **options)
    tfdist.create_strategy("one_device")


EACH = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES, indirect=True)


def faster(kind: bool) -> Any:
    """Returns what measures steps, and finds those with (or without) XLA the faster ones."""
    measured = choice._measured

    def found(*args: Any) -> Any:
        seconds, reason = measured(*args)
        return {one: [1.0 if one is kind else 2.0] for one in seconds}, reason

    return found


@EACH
@pytest.mark.parametrize(("kind", "steps"), [(False, 1), (True, 3)], ids=["without", "with XLA"])
def test_the_faster_step_trains_as_if_nothing_had_been_tried(
    strategy: Any,
    kind: bool,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(choice, "_measured", faster(kind))
    normalization = lambda: keras.layers.BatchNormalization(synchronized=False)  # noqa: E731
    layers = (Counting, normalization, lambda: keras.layers.Dropout(0.3))
    found, history = trained(strategy, *layers, jit_compile="auto", steps_per_execution=steps)
    expected, expected_history = trained(strategy, *layers, jit_compile=kind, steps_per_execution=steps)
    assert found.jit_compile is kind
    assert difference(found, expected) <= RELATIVE_TOLERANCE
    for key, values in expected_history.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-5)
    counts = [model.layers[1].batches.numpy() for model in (found, expected)]
    assert counts[0] == counts[1] == 2 * -(-ROWS // 4)
    # The self check draws the masks of the compiled step too.
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING], caplog.text


def test_it_says_what_it_chose_and_is_asked_once(capsys: pytest.CaptureFixture[str]) -> None:
    strategy = tfdist.create_strategy("mirrored", devices=2)
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse", jit_compile="auto")
    for _ in range(2):
        model.make_train_function(force=True)
        model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if "jit_compile" in line]
    assert len(lines) == 1 and "ms with XLA and" in lines[0], lines
    assert model.jit_compile in (True, False)


@EACH
def test_meters_of_tensorboard_count_the_steps_of_the_training_alone(strategy: Any, tmp_path: Any) -> None:
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse", jit_compile="auto")
    board = tfdist.callbacks.TensorBoard(tmp_path, update_freq=1)
    for _ in range(2):
        model.fit(np.ones((20, 4)), np.ones((20, 2)), batch_size=8, verbose=0, callbacks=[board])
    assert StepProbe.of(model).read().examples == 40


class Unlike(keras.layers.Layer):
    """Has an operation that XLA cannot compile."""

    def call(self, x: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(lambda value: value, [x], x.dtype), x.shape)


@EACH
def test_what_xla_cannot_compile_stays_as_it_is(strategy: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tfdist"):
        found, _ = trained(strategy, Unlike, jit_compile="auto")
    expected, _ = trained(strategy, Unlike)
    assert found.jit_compile is False and "XLA cannot compile this step" in caplog.text
    assert difference(found, expected) == 0


def test_a_step_that_asks_other_replicas_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    strategy = tfdist.create_strategy("mirrored", devices=2)
    synchronized = lambda: keras.layers.BatchNormalization(synchronized=True)  # noqa: E731
    with caplog.at_level(logging.WARNING, "tfdist"):
        found, _ = trained(strategy, synchronized, jit_compile="auto")
    expected, _ = trained(strategy, synchronized)
    assert found.jit_compile is False and "talks to the other replicas" in caplog.text
    assert difference(found, expected) == 0


def test_the_reason_is_told_whole() -> None:
    reason = "Exception encountered when calling Sum.call().\n\n\x1b[1mmasked sums of 10 m\x1b[0m\n"
    assert choice._told(False, [], reason).endswith("compile this step: masked sums of 10 m")


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("one_device", {}, "plain Keras"),
        ("mesh", {"mesh": {"batch": 2}}, "one way to compile"),
        ("mirrored", {"devices": 2, "local_steps": 2}, "one way to compile"),
    ],
)
def test_where_there_is_no_choice_that_is_said(
    name: str, options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = tfdist.create_strategy(name, **options)
    with caplog.at_level(logging.WARNING, "tfdist"):
        model, _ = trained(strategy, jit_compile="auto")
    assert model.jit_compile is False and reason in caplog.text


class Mean(keras.Model):
    """Its loss is the mean of what dropout leaves of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = keras.layers.Dropout(0.25, seed=3)
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.dropout(x * self.scale, training=training)

    def compute_loss(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return keras.ops.mean(y_pred)


@EACH
def test_dropout_of_a_compiled_step_drops_its_share(strategy: Any) -> None:
    with strategy.scope():
        model = Mean()
        model.compile(keras.optimizers.SGD(0.0), jit_compile=True)
    x = np.ones((64, 500), "float32")
    losses = [model.fit(x, batch_size=64, verbose=0).history["loss"][0] for _ in range(4)]
    # The mean of ones, of which a part is dropped and the rest scaled up, is 1 but for chance: 0.003.
    np.testing.assert_allclose(losses, 1.0, atol=0.02)
    assert len(set(losses)) == 4
