"""Local steps on two replicas: loss scaling, statistics and averages; checkpoints; what is sent; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_local_steps import _assert_alike, _copies, _strategy

import tfdist
from tfdist import create_strategy
from tfdist._internals.fit.state import named_state
from tfdist.callbacks import BackupAndRestore, TensorBoard
from tfdist.errors import ConfigError, UnsupportedError

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((48, 6)).astype("float32")
LABELS = (X[:, 0] * X[:, 1] > 0).astype("int32")


def _classifier(strategy: Any, optimizer: Any, **compiled: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    with strategy.scope():
        layers = [
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(2),
        ]
        model = keras.Sequential([keras.layers.Input((6,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(), loss, metrics=["accuracy"], **compiled)
    return model


def test_replicas_skip_a_step_of_float16_together() -> None:
    """One replica's gradient is infinite in one step: counters and scales stay equal, and so do later rounds."""
    strategy = _strategy(local_steps=3)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=64.0)
        model.compile(optimizer, "mse")
    x = X.copy()
    x[9] = 1e30  # the second batch, of the first replica alone
    model.fit(x, LABELS[:, None], batch_size=8, shuffle=False, verbose=0)
    assert _copies(optimizer.inner_optimizer._iterations) == [5, 5]
    assert _copies(optimizer.dynamic_scale) == [32.0, 32.0]
    assert np.isfinite(model.get_weights()[0]).all()
    _assert_alike(model.trainable_variables)


@pytest.mark.parametrize("num_updates", [3, 4])
def test_statistics_and_moving_averages_are_alike(num_updates: int) -> None:
    """After each epoch, at whose end a round ends or not: the replicas' moving statistics and averages of weights."""
    strategy = _strategy(local_steps=num_updates)
    model = _classifier(strategy, lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))

    class Ends(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            _assert_alike(self.model.variables[:8])
            _assert_alike(self.model.optimizer._model_variables_moving_average)

    model.fit(X, LABELS, batch_size=8, epochs=2, verbose=0, callbacks=[Ends()])
    moving = model.optimizer._model_variables_moving_average
    for weight, average in zip(model.trainable_variables, moving, strict=True):
        np.testing.assert_array_equal(weight.numpy(), average.numpy())  # as `fit` ends with EMA


class Stop(keras.callbacks.Callback):
    """Ends the process's training after an epoch, as a failure would."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            raise InterruptedError


def test_a_run_goes_on_as_if_never_interrupted(tmp_path: Path) -> None:
    """Weights, slots and outer momentum are those of a run without a break, bit for bit."""
    options = {"local_steps": 4, "outer_optimizer": "nesterov"}
    found = []
    for name, breaks in (("whole", False), ("broken", True)):
        for callbacks in ([[Stop()]] if breaks else []) + [[]]:
            strategy = _strategy(**options)
            model = _classifier(strategy, lambda: keras.optimizers.Adam(0.05))
            backup = BackupAndRestore(str(tmp_path / name), delete_checkpoint=False)
            try:
                model.fit(
                    X,
                    LABELS,
                    batch_size=8,
                    epochs=3,
                    shuffle=False,
                    verbose=0,
                    callbacks=[backup, *callbacks],
                )
            except InterruptedError:
                continue
        momenta = strategy._rounds_of(model).momenta()
        assert len(momenta) == 6 and all(np.any(one.numpy()) for one in momenta)
        parts = [
            part for name, part in named_state(model).items() if name.startswith("strategy/outer_momentum/")
        ]
        for part, momentum in zip(parts, momenta, strict=True):
            np.testing.assert_array_equal(part.read(), momentum.numpy())
        variables = [*model.variables, *model.optimizer.variables, *momenta]
        found.append([copy for variable in variables if variable.shape for copy in _copies(variable)])
    for whole, broken in zip(*found, strict=True):
        np.testing.assert_array_equal(whole, broken)


def _sent(strategy: Any, run: Any) -> list[int]:
    """Returns how many numbers each sum over the replicas has that is traced while `run` runs."""
    from tensorflow.python.ops import collective_ops

    sizes: list[int] = []
    stock = collective_ops.all_reduce_v2

    def noted(value: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(int(np.prod(value.shape.as_list())))
        return stock(value, *args, **kwargs)

    collective_ops.all_reduce_v2 = noted
    try:
        run()
    finally:
        collective_ops.all_reduce_v2 = stock
    return sizes


def test_a_local_step_sends_what_metrics_need_and_no_gradient() -> None:
    strategy = _strategy(local_steps=4)
    model = _classifier(strategy, lambda: keras.optimizers.Adam(0.05))
    sizes = _sent(strategy, lambda: model.train_on_batch(X[:8], LABELS[:8]))
    # All of them in one message: the moving statistics, loss and accuracy, and the wish to stop.
    assert max(sizes) == 2 * 8 + 2 * 2 + 1
    sizes = _sent(strategy, lambda: strategy.settle(model))
    num_weights = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert sizes == [num_weights] * strategy.num_replicas_in_sync


def test_self_check_does_a_synchronous_step(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("TFDIST_SELF_CHECK", "on")
    found = []
    for check in ("on", "off"):
        monkeypatch.setenv("TFDIST_SELF_CHECK", check)
        strategy = _strategy(local_steps=4)
        model = _classifier(strategy, lambda: keras.optimizers.Adam(0.05))
        model.fit(X, LABELS, batch_size=8, shuffle=False, verbose=2)
        assert ("self check: a step on" in capsys.readouterr().out) == (check == "on")
        found.append(model.get_weights())
    for checked, unchecked in zip(*found, strict=True):
        np.testing.assert_array_equal(checked, unchecked)


def test_drift_and_number_of_synchronizations_are_shown(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    strategy = _strategy(local_steps=4)
    model = _classifier(strategy, lambda: keras.optimizers.Adam(0.05))
    callback = TensorBoard(str(tmp_path), update_freq=4)
    model.fit(X, LABELS, batch_size=4, epochs=1, verbose=0, callbacks=[callback])
    events = EventAccumulator(str(tmp_path / "train"), size_guidance={"tensors": 0})
    events.Reload()
    numbers = [
        float(tf.make_ndarray(one.tensor_proto)) for one in events.Tensors("local_steps/synchronizations")
    ]
    assert numbers == [1.0, 2.0]
    drifts = [float(tf.make_ndarray(one.tensor_proto)) for one in events.Tensors("local_steps/drift")]
    assert all(0 < drift < 1 for drift in drifts)
    text = events.Tensors("run/strategy")[0].tensor_proto.string_val[0].decode()
    assert "local_steps=4" in text


def test_a_small_task_is_learned_as_well() -> None:
    generator = np.random.default_rng(5)
    x = generator.standard_normal((512, 8)).astype("float32")
    y = (np.tanh(x @ generator.standard_normal((8, 4))) @ generator.standard_normal(4) > 0).astype("int32")
    scores = {}
    for outer in ("", "average", "slow_momentum", "nesterov"):
        strategy = _strategy(**({"local_steps": 8, "outer_optimizer": outer} if outer else {}))
        keras.utils.set_random_seed(0)
        with strategy.scope():
            layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
            model = keras.Sequential([keras.layers.Input((8,)), *layers])
            optimizer = keras.optimizers.Adam(0.02)
            model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"], steps_per_execution=16)
        model.fit(x, y, batch_size=32, epochs=10, verbose=0)
        scores[outer] = model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    assert all(score > scores[""] - 0.03 > 0.9 for score in scores.values()), scores


WRONG = {
    "local_steps=0 is not possible; give the number of updates": {"local_steps": 0},
    "outer_optimizer='nesterow' is not possible.*Did you mean 'nesterov'": {"outer_optimizer": "nesterow"},
    "outer_momentum=0.9 has no use with outer_optimizer='average'": {"local_steps": 4, "outer_momentum": 0.9},
    "outer_momentum=1.0 is not possible": {"outer_optimizer": "nesterov", "outer_momentum": 1.0},
    "outer_learning_rate=0 is not possible": {"outer_optimizer": "slow_momentum", "outer_learning_rate": 0},
}


@pytest.mark.parametrize("message", WRONG)
def test_options_that_are_not_possible(message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _strategy(**WRONG[message])


@pytest.mark.parametrize("name", ["one_device", "mesh", "tpu"])
def test_strategies_that_have_no_local_steps(name: str) -> None:
    with pytest.raises(
        ConfigError, match="no option 'local_steps'.*'mirrored' and 'multi_worker_mirrored' have"
    ):
        create_strategy(name, local_steps=4)


def test_models_that_cannot_take_local_steps() -> None:
    class OwnFunction(keras.Model):
        def make_train_function(self, force: bool = False) -> Any:
            return super().make_train_function(force)

    strategy = _strategy(local_steps=4, outer_optimizer="slow_momentum")
    with strategy.scope():
        model = OwnFunction()
        model.compile("sgd", "mse")
        with pytest.raises(UnsupportedError, match="make_train_function of its own, and local_steps=4"):
            model.fit(X, LABELS, verbose=0)


def test_slow_momentum_needs_a_learning_rate() -> None:
    strategy = _strategy(local_steps=4, outer_optimizer="slow_momentum")
    with strategy.scope():
        model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(1)])
        model.compile(None, "mse")
        model.optimizer = None
    with pytest.raises(UnsupportedError, match="compiled without one.*Give outer_optimizer='nesterov'"):
        model.fit(X, LABELS, verbose=0)


def test_a_layer_that_is_frozen_in_between_stays_as_it_is() -> None:
    strategy = _strategy(local_steps=4, outer_optimizer="nesterov")
    model = _classifier(strategy, lambda: keras.optimizers.Adam(0.05), jit_compile=True)
    model.fit(X, LABELS, batch_size=8, verbose=0)
    frozen = model.layers[0].kernel.numpy()
    model.layers[0].trainable = False
    model.compile("sgd", model.loss, run_eagerly=True)
    model.fit(X[:24], LABELS[:24], batch_size=8, verbose=0)
    for copy in _copies(model.layers[0].kernel):
        np.testing.assert_array_equal(copy, frozen)
    assert np.isfinite(model.layers[-1].kernel.numpy()).all()
    _assert_alike(model.trainable_variables)


def test_average_weights_ends_a_round() -> None:
    strategy = _strategy(local_steps=4)
    model = _classifier(strategy, lambda: keras.optimizers.Adam(0.05))
    model.train_on_batch(X[:8], LABELS[:8])
    kernel = _copies(model.layers[0].kernel)
    slots = _copies(model.optimizer.variables[2])
    tfdist.average_weights(model)
    np.testing.assert_allclose(_copies(model.layers[0].kernel)[1], np.mean(kernel, 0), rtol=1e-6)
    np.testing.assert_allclose(_copies(model.optimizer.variables[2])[1], np.mean(slots, 0), rtol=1e-6)
    tfdist.average_weights(_classifier(create_strategy("one_device"), keras.optimizers.Adam))
