"""The first step of a training function is done twice, compared, and leaves nothing behind."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist._internals import check
from tfdist._internals.check import reference
from tfdist._internals.fit.run import run_of
from tfdist._internals.replica import step as replica_step
from tfdist._internals.step.repeated_rows import set_repeated_rows
from tfdist.callbacks import TensorBoard
from tfdist.errors import ConfigError, SelfCheckError
from tfdist.strategies.mirrored import Mirrored

ROWS, BATCH = 26, 8
DICE = "the loss is no mean over the rows"


class Fed(Mirrored):
    """Feeds its devices as if they were accelerators."""

    feeds_devices = True


class Padded(Mirrored):
    """Has batches of one static shape, as on a TPU."""

    pads_batches = True


@pytest.fixture(scope="module")
def strategies() -> dict[str, Any]:
    """The strategies, each made once."""
    tfdist.register_strategy("fed", Fed)
    tfdist.register_strategy("padded", Padded)
    return {
        "mirrored": tfdist.create_strategy("mirrored", devices=2, self_check="on"),
        "fed": tfdist.create_strategy("fed", devices=2, self_check="on"),
        "padded": tfdist.create_strategy("padded", devices=2, self_check="on"),
        "mesh": tfdist.create_strategy("mesh", mesh={"batch": 2}, self_check="on"),
    }


@pytest.fixture
def mirrored(strategies: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Mirrored over two devices, with the check on."""
    monkeypatch.delenv(check.ENVIRONMENT, raising=False)
    strategies["mirrored"].self_check = "on"
    yield strategies["mirrored"]
    strategies["mirrored"].self_check = "on"


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Returns features of shape (26, 4) and classes of shape (26,)."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(ROWS, 4)).astype("float32")
    features[::3] *= 3.0
    return features, generator.integers(0, 3, ROWS)


def network(strategy: Any, *middle: Callable[[], Any], loss: Any = None, **options: Any) -> keras.Model:
    """Returns a small compiled network."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        layers = [
            keras.layers.Dense(6, activation="tanh"),
            *(layer() for layer in middle),
            keras.layers.Dense(3),
        ]
        model = keras.Sequential([keras.Input((4,)), *layers])
        optimizer = options.pop("optimizer", lambda: keras.optimizers.Adam(0.01))
        loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer(), loss, metrics=["accuracy"], **options)
    return model


def fitted(strategy: Any, model: keras.Model, dataset: Any = None, epochs: int = 2) -> list[np.ndarray]:
    """Returns logs, weights, optimizer's variables and seeds after training."""
    data: dict[str, Any] = {"x": dataset} if dataset is not None else dict(zip("xy", rows(), strict=True))
    batch = {} if dataset is not None else {"batch_size": BATCH}
    history = model.fit(**data, **batch, epochs=epochs, verbose=0).history
    variables = [*model.variables, *model.optimizer.variables]
    return [*map(np.asarray, history.values()), *(np.asarray(variable.numpy()) for variable in variables)]


def unknown_length() -> tf.data.Dataset:
    """Returns batches whose number is not known."""
    features, classes = rows()
    whole = tf.data.Dataset.from_tensor_slices((features, classes)).filter(
        lambda x, y: tf.reduce_sum(x) < 1e9
    )
    return whole.batch(BATCH)


def of_fixed_shape() -> tf.data.Dataset:
    """Returns batches of one shape."""
    return tf.data.Dataset.from_tensor_slices(rows()).batch(BATCH, drop_remainder=True)


def several_optimizers() -> Any:
    """Returns an optimizer that holds others, in a list and in a map."""
    by_path = {".*kernel": keras.optimizers.SGD(0.01)}
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(default_optimizer=keras.optimizers.Adam(0.01), optimizer_map=by_path)
    )


RUNS: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    "arrays": ("mirrored", {}, lambda: None),
    "several steps": ("mirrored", {"steps_per_execution": 3}, lambda: None),
    "unknown length": ("mirrored", {"steps_per_execution": 3}, unknown_length),
    "fixed shape": ("mirrored", {}, of_fixed_shape),
    "several optimizers, eagerly": (
        "mirrored",
        {"optimizer": several_optimizers, "run_eagerly": True},
        lambda: None,
    ),
    "fed": ("fed", {}, lambda: None),
    "mesh": ("mesh", {}, lambda: None),
}


@pytest.mark.parametrize("name", RUNS)
def test_run_with_the_check_equals_one_without(name: str, strategies: dict[str, Any]) -> None:
    which, options, dataset = RUNS[name]
    strategy = strategies[which]
    found = []
    for mode in ("off", "on"):
        strategy.self_check = mode
        model = network(
            strategy, lambda: keras.layers.Dropout(0.3), keras.layers.BatchNormalization, **options
        )
        found.append(fitted(strategy, model, dataset()))
    strategy.self_check = "on"
    for without, checked in zip(*found, strict=True):
        np.testing.assert_array_equal(checked, without)


def dice(y_true: Any, y_pred: Any) -> Any:
    """A loss of the whole batch."""
    target, chances = tf.one_hot(tf.cast(y_true, tf.int32), 3), tf.nn.softmax(y_pred)
    return 1 - 2 * tf.reduce_sum(target * chances) / tf.reduce_sum(target + chances**2)


class Clipping(keras.Sequential):
    """Uses gradients before they are summed."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, self.trainable_variables), 0.1)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


class Centered(keras.layers.Layer):
    """Mixes rows."""

    def call(self, inputs: Any) -> Any:
        """Subtracts the mean of the batch."""
        return inputs - tf.reduce_mean(inputs, 0)


class Largest(keras.layers.Layer):
    """Keeps what is no mean."""

    def build(self, input_shape: Any) -> None:
        """Makes the state."""
        self.largest = self.add_weight(shape=(), initializer="zeros", trainable=False, name="largest")

    def call(self, inputs: Any) -> Any:
        """Notes the largest value."""
        self.largest.assign(tf.maximum(self.largest, tf.reduce_max(inputs)))
        return inputs


def clipping(strategy: Any) -> keras.Model:
    """Returns a model that clips too early."""
    with strategy.scope():
        model = Clipping([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


FAULTS: dict[str, tuple[Callable[[Any], keras.Model], list[str]]] = {
    "loss": (
        lambda strategy: network(strategy, loss=dice),
        ["log 'loss'", "no mean over the rows", "one value a row", "whole_batch_loss"],
    ),
    "clipping": (clipping, ["weight 'clipping", "before they are summed", r"tfdist\.sum_gradients"]),
    "layer": (lambda strategy: network(strategy, Centered), ["mixes the rows"]),
    "state": (lambda strategy: network(strategy, Largest), ["largest", "aggregation="]),
    "accumulation and a warm-up": (
        lambda strategy: network(
            strategy,
            loss=dice,
            optimizer=lambda: keras.optimizers.SGD(
                keras.optimizers.schedules.CosineDecay(0.0, 100, warmup_target=0.1, warmup_steps=50),
                gradient_accumulation_steps=3,
            ),
        ),
        ["weight 'sequential", "one value a row"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found_named_and_nothing_is_changed(name: str, mirrored: Any) -> None:
    build, said = FAULTS[name]
    model = build(mirrored)
    with mirrored.scope():
        model.optimizer.build(model.trainable_variables)
    before = [np.asarray(variable.numpy()) for variable in (*model.variables, *model.optimizer.variables)]
    with pytest.raises(SelfCheckError) as caught:
        model.fit(*rows(), batch_size=BATCH, verbose=0)
    for pattern in (*said, "Cure: ", "self_check="):
        assert re.search(pattern, str(caught.value)), str(caught.value)
    after = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    for value, old in zip(after, before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_wrong_sums_are_blamed_on_the_machine(mirrored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = replica_step.all_reduce
    monkeypatch.setattr(
        replica_step,
        "all_reduce",
        lambda values: [value * tf.cast(1.01, value.dtype) for value in right(values)],
    )
    monkeypatch.setattr(mirrored, "sum_error", lambda: 0.01)
    with pytest.raises(SelfCheckError, match="known vectors.*wrong too"):
        fitted(mirrored, network(mirrored))


def test_warning_instead_of_an_error(mirrored: Any, caplog: pytest.LogCaptureFixture) -> None:
    mirrored.self_check = "warn"
    with caplog.at_level(logging.WARNING, logger="tfdist"):
        fitted(mirrored, network(mirrored, loss=dice), epochs=1)
    assert DICE in caplog.text


def test_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(check.ENVIRONMENT, raising=False)
    assert (check.mode_of(None), check.mode_of("warn")) == ("on", "warn")
    with pytest.raises(ConfigError, match=r"self_check='maybe'.*'on', 'warn', 'off'"):
        tfdist.create_strategy("mirrored", devices=2, self_check="maybe")
    monkeypatch.setenv(check.ENVIRONMENT, "off")
    assert check.mode_of("on") == "off"
    monkeypatch.setenv(check.ENVIRONMENT, "yes")
    with pytest.raises(ConfigError, match="TFDIST_SELF_CHECK='yes'"):
        check.mode_of(None)


def test_what_only_tells_of_the_training_is_no_part_of_it(mirrored: Any, tmp_path: Path) -> None:
    # The callback counts rows, waits and norms in variables of the step, of which one device alone knows nothing.
    model = network(mirrored)
    callback = TensorBoard(str(tmp_path), update_freq=1)
    dataset = tf.data.Dataset.from_tensor_slices(rows()).batch(BATCH)
    model.fit(dataset, epochs=1, verbose=0, callbacks=[callback])
    assert mirrored.self_check == "on"
    assert run_of(model).probe.read().examples == len(rows()[0])


def test_own_randomness_cannot_be_checked(mirrored: Any, caplog: pytest.LogCaptureFixture) -> None:
    def noisy(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_sum(tf.square(y_pred + tf.random.normal(tf.shape(y_pred))), -1)

    with caplog.at_level(logging.WARNING, logger="tfdist"):
        fitted(mirrored, network(mirrored, loss=noisy), epochs=1)
    assert "not done" in caplog.text and "random numbers of its own" in caplog.text


def test_few_rows_where_a_device_has_no_room_for_a_batch(
    mirrored: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = reference.Reference.run

    def of_small_device(self: Any, *args: Any) -> Any:
        if len(self._data[0]) > 5:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return run(self, *args)

    monkeypatch.setattr(reference.Reference, "run", of_small_device)
    found = []
    for mode in ("off", "on"):
        mirrored.self_check = mode
        model = network(mirrored, lambda: keras.layers.Dropout(0.3))
        found.append(fitted(mirrored, model, of_fixed_shape()))
    for without, checked in zip(*found, strict=True):
        np.testing.assert_array_equal(checked, without)
    with pytest.raises(SelfCheckError, match="on 5 rows"):
        fitted(mirrored, network(mirrored, loss=dice), of_fixed_shape())
    model = network(mirrored)
    model.fit(of_fixed_shape(), verbose=2)
    assert "a step on 5 rows equals" in capsys.readouterr().out


@pytest.mark.parametrize("which", ["padded", "mesh"])
def test_no_second_try_where_a_step_takes_no_other_rows(
    which: str, strategies: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def without_memory(self: Any, *args: Any) -> Any:
        tries.append(len(self._data[0]))
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(reference.Reference, "run", without_memory)
    monkeypatch.setattr(strategies[which], "self_check", "on")
    with caplog.at_level(logging.WARNING, logger="tfdist"):
        fitted(strategies[which], network(strategies[which]), of_fixed_shape(), epochs=1)
    assert len(tries) == 1
    assert "one device has not the memory" in caplog.text


def test_rounding_within_an_optimizer_is_no_fault(mirrored: Any) -> None:
    # Ftrl subtracts the root of an accumulator from that of one that is larger by the square of a small gradient.
    model = network(mirrored, optimizer=keras.optimizers.Ftrl, loss_weights=[0.003])
    assert len(fitted(mirrored, model)) > 0


def test_each_training_function_is_checked_once(
    mirrored: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = []
    stock = check.check_step
    monkeypatch.setattr(check, "check_step", lambda *args: checked.append(args) or stock(*args))
    model = network(mirrored)
    features, classes = rows()
    for _ in range(2):
        model.fit(features, classes, batch_size=BATCH, verbose=0)
    model.train_on_batch(features[:7], classes[:7])
    assert len(checked) == 1
    assert "self check" not in capsys.readouterr().out
    with mirrored.scope():
        model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(features, classes, batch_size=BATCH, verbose=2)
    assert len(checked) == 2
    assert capsys.readouterr().out.count("self check: a step on 5 rows equals that of one device") == 1


class Pair(keras.Model):
    """A generator and a discriminator, as in Keras's guide; their optimizers make variables in the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.makes, self.judges = keras.layers.Dense(4), keras.layers.Dense(1)
        self.seeds = keras.random.SeedGenerator(7)

    def compile(self, first: Any, second: Any) -> None:  # type: ignore[override]
        """Takes two optimizers."""
        super().compile()
        self.first, self.second = first, second

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of each."""
        made = self.makes(keras.random.normal((tf.shape(data)[0], 3), seed=self.seeds))
        with tf.GradientTape() as tape:
            judged = tf.reduce_mean(tf.square(self.judges(data) - 1)) + tf.reduce_mean(
                tf.square(self.judges(made))
            )
        weights = self.judges.trainable_variables
        self.first.apply_gradients(zip(tape.gradient(judged, weights), weights, strict=True))
        with tf.GradientTape() as tape:
            made = self.makes(keras.random.normal((tf.shape(data)[0], 3), seed=self.seeds))
            fooled = tf.reduce_mean(tf.square(self.judges(made) - 1))
        weights = self.makes.trainable_variables
        self.second.apply_gradients(zip(tape.gradient(fooled, weights), weights, strict=True))
        return {"judged": judged, "fooled": fooled}


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("which", ["mirrored", "mesh"])
def test_variables_of_the_first_step_are_made_on_all_devices(
    which: str, mode: str, strategies: dict[str, Any]
) -> None:
    def trained(scope: Any) -> list[np.ndarray]:
        keras.utils.set_random_seed(3)
        with scope:
            model = Pair()
            model.compile(keras.optimizers.Adam(0.01), keras.optimizers.RMSprop(0.01))
        history = model.fit(rows()[0], batch_size=BATCH, epochs=2, verbose=0).history
        variables = [*model.variables, *model.first.variables, *model.second.variables]
        return [*map(np.asarray, history.values()), *(np.asarray(variable.numpy()) for variable in variables)]

    strategy = strategies[which]
    strategy.self_check, strategy.random_by_row = mode, True
    try:
        found, expected = trained(strategy.scope()), trained(tf.distribute.get_strategy().scope())
    finally:
        strategy.self_check, strategy.random_by_row = "on", False
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


class Positions(keras.layers.Layer):
    """Adds a row of a table to each of four features; every replica looks all of them up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = keras.layers.Embedding(4, 6)

    def call(self, x: Any) -> Any:
        return x + tf.reduce_mean(self.table(tf.range(4)), axis=0)


@pytest.mark.parametrize("repeated_rows", ["keep", "sum"])
def test_rows_of_every_replica_in_a_step_that_is_not_compiled(mirrored, repeated_rows) -> None:
    """Without a graph nobody can tell that one device has these rows once; so the step is refused, unless all sum."""
    set_repeated_rows(mirrored, repeated_rows)
    try:
        model = network(
            mirrored, Positions, optimizer=lambda: keras.optimizers.Adagrad(0.1), run_eagerly=True
        )
        if repeated_rows == "sum":
            fitted(mirrored, model)
            return
        with pytest.raises(
            SelfCheckError, match=r"What it usually is: run_eagerly=True.*\nCure: compile without"
        ):
            fitted(mirrored, model)
    finally:
        set_repeated_rows(mirrored, "keep")
