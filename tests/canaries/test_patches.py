"""Every patch of Keras and TensorFlow is still needed: without it, a tiny case goes wrong or crashes.

A failure here is good news: upstream is right now, and the patch it names can be deleted.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from tensorflow.python.data.ops import multi_device_iterator_ops

from tfdist import create_strategy
from tfdist._internals.registry import list_patches
from tfdist.devices import make_logical_cpus
from tfdist.errors import UnsupportedError
from tfdist.parity.comparison import RELATIVE_TOLERANCE, relative_difference
from tfdist.parity.inspection import count_collectives, mesh_collectives
from tfdist.strategies.mirrored import Mirrored

make_logical_cpus(4)  # their number is fixed at TensorFlow's first operation
BATCH = 8
CANARIES: dict[str, Callable[[], None]] = {}
PATCHES = {patch.target: patch for patch in list_patches()}


class StaticMirrored(Mirrored):
    """Batches padded to one shape, as for a TPU."""

    static_shapes = True


@functools.cache
def strategy(
    static: bool = False, devices: int = 2, random_by_row: bool = False, mesh: bool = False
) -> tf.distribute.Strategy:
    if mesh:
        return create_strategy("mesh", mesh={"batch": 2})
    pair = create_strategy("mirrored", devices=2, random_by_row=random_by_row)
    return StaticMirrored(devices) if static else pair


def canary(*targets: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers a function that passes if all is right, as the canary of the patches that end so."""

    def register(function: Callable[[], None]) -> Callable[[], None]:
        for target in targets:
            (full,) = [name for name in PATCHES if name.endswith(target)]
            CANARIES[full] = function
        return function

    return register


# 25 rows leave a single one for the last batch, so that a replica has none.
def rows(count: int = 25) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((count, 4)).astype("float32")
    features[::3] *= 3.0
    return features, generator.integers(0, 3, count)


def crossentropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(*middle: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), *middle, keras.layers.Dense(3)])


def compiled(build: Callable[[], keras.Model] = dense, optimizer: Any = None, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = build()
    model.compile(
        optimizer() if optimizer else keras.optimizers.SGD(0.5), **{"loss": crossentropy()} | options
    )
    return model


def result(scope: Any, make: Callable[[], keras.Model], data: Any) -> list[np.ndarray]:
    with scope:
        model = make()
    inputs, labels = data() if callable(data) else data
    history = model.fit(inputs, labels, batch_size=BATCH, shuffle=False, verbose=0)
    return [*model.get_weights(), *(np.asarray(values) for values in history.history.values())]


def assert_one_device(make: Callable[[], keras.Model], data: Any = None, **options: Any) -> None:
    data = rows() if data is None else data
    found = result(strategy(**options).scope(), make, data)
    expected = result(contextlib.nullcontext(), make, data)
    differences = [relative_difference(one, other, 1.0) for one, other in zip(found, expected, strict=True)]
    assert max(differences) <= RELATIVE_TOLERANCE, differences


@pytest.mark.parametrize("target", PATCHES)
def test_patch_is_needed(target: str) -> None:
    assert target in CANARIES, f"{target} is patched without a canary; write one in this file"
    patch, check = PATCHES[target], CANARIES[target]
    strategy()
    check()
    patch.revert()
    try:
        wrong = fails(check)
    finally:
        patch.apply()
    assert wrong, f"stock {target} is right now: delete the patch in tfdist/_internals/{patch.name}.py"


def test_every_canary_has_a_patch() -> None:
    assert set(CANARIES) == set(PATCHES)


def test_patches_are_in_force_once() -> None:
    strategy()
    assert all(patch.active for patch in PATCHES.values())
    assert len({(id(patch.owner), patch.attribute) for patch in PATCHES.values()}) == len(PATCHES)


def fails(check: Callable[[], None]) -> bool:
    try:
        check()
    # Stock goes wrong in many ways: wrong numbers, missing errors, crashes in Keras and in the runtime.
    except (Exception, pytest.fail.Exception):
        return True
    return False


@canary("losses.loss.scale_loss_for_distribution", "_all_reduce_sum_gradients", "_direct_assign")
def uneven_rows() -> None:
    assert_one_device(lambda: compiled(metrics=["accuracy"]))


@canary("unscale_loss_for_distribution")
def losses_of_several_outputs() -> None:
    def build() -> keras.Model:
        inputs = keras.Input((4,))
        outputs = {name: keras.layers.Dense(3, name=name)(inputs) for name in "ab"}
        return keras.Model(inputs, outputs)

    features, labels = rows(16)
    assert_one_device(
        lambda: compiled(build, loss={"a": crossentropy(), "b": crossentropy()}),
        (features, {"a": labels, "b": labels}),
    )


@canary("reduce_weighted_values")
def masked_loss() -> None:
    def build() -> keras.Model:
        embedding = keras.layers.Embedding(9, 4, mask_zero=True)
        return keras.Sequential([keras.Input((5,), dtype="int32"), embedding, keras.layers.Dense(3)])

    generator = np.random.default_rng(0)
    lengths = np.arange(16)[:, None] % 8
    ids = (generator.integers(1, 9, (16, 5)) * (np.arange(5) <= lengths)).astype("int32")
    assert_one_device(lambda: compiled(build), (ids, generator.integers(0, 3, (16, 5))))


@canary("Mean.update_state")
def mean_of_a_scalar() -> None:
    class Tracking(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.layer = keras.layers.Dense(3)
            self.tracker = keras.metrics.Mean(name="size")

        def call(self, inputs: Any) -> Any:
            return self.layer(inputs)

        def train_step(self, data: Any) -> Any:
            logs = super().train_step(data)
            self.tracker.update_state(tf.reduce_mean(data[0]))
            return {**logs, "size": self.tracker.result()}

    assert_one_device(lambda: compiled(Tracking))


@canary("MetricsList.update_state")
def metric_without_padding() -> None:
    assert_one_device(lambda: compiled(metrics=["accuracy"]), static=True)


@canary("test_step")
def validation_without_padding() -> None:
    with strategy(static=True).scope():
        found = compiled().evaluate(*rows(), batch_size=BATCH, verbose=0)
    assert found == pytest.approx(compiled().evaluate(*rows(), batch_size=BATCH, verbose=0), rel=1e-5)


@canary("nn._compute_moments")
def local_statistics_without_padding() -> None:
    norm = lambda: compiled(lambda: dense(keras.layers.BatchNormalization()))  # noqa: E731
    assert_one_device(norm, rows(13), static=True, devices=1)


def collectives(**options: Any) -> float:
    with strategy().scope():
        model = compiled(**options)
    model.fit(*rows(16), batch_size=BATCH, verbose=0)
    return count_collectives(model) / 2  # in the graph, one on each of two devices


@canary("_compute_moments_sync")
def one_collective_a_layer() -> None:
    layer = keras.layers.BatchNormalization(synchronized=True)
    # Moments, and gradients.
    assert collectives(build=lambda: dense(layer)) == 2


@canary("_clip_gradients")
def clipping_of_the_sum() -> None:
    assert_one_device(lambda: compiled(optimizer=lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.1)))


def poisoned() -> tuple[np.ndarray, np.ndarray]:
    features, labels = rows(16)
    features[1] = np.inf
    return features, labels


def scaled(**options: Any) -> keras.optimizers.Optimizer:
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, **options))


@canary("LossScaleOptimizer._tf_apply")
def finiteness_of_the_sum() -> None:
    assert collectives(optimizer=scaled) == 1


@canary("LossScaleOptimizer.check_finite")
def accumulated_gradient_that_is_not_finite() -> None:
    # No update falls into these two steps, where replicas that disagree would wait for each other for ever.
    with strategy().scope():
        model = compiled(optimizer=lambda: scaled(gradient_accumulation_steps=4))
    model.fit(*poisoned(), batch_size=BATCH, shuffle=False, verbose=0)
    counters = [variable for variable in model.optimizer.variables if len(variable.shape) == 0]
    for variable in counters:
        values = strategy().experimental_local_results(variable.value)
        assert len({float(value) for value in values}) == 1, variable.path


@canary("SeedGenerator.next")
def random_numbers_of_each_replica() -> None:
    class Noise(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.seeds = keras.random.SeedGenerator(1)

        def call(self, inputs: Any) -> Any:
            return inputs * 0 + keras.random.uniform(keras.ops.shape(inputs), seed=self.seeds)

    with strategy().scope():
        model = keras.Sequential([Noise()])
    first, second = model.predict(np.ones((2, 4), "float32"), verbose=0)
    assert np.abs(first - second).max() > 0


DRAWS = {
    "dropout": lambda x: keras.random.dropout(x, 0.5),
    "normal": lambda x: x + keras.random.normal(keras.ops.shape(x)),
    "truncated_normal": lambda x: x + keras.random.truncated_normal(keras.ops.shape(x)),
    "uniform": lambda x: x + keras.random.uniform(keras.ops.shape(x)),
    "randint": lambda x: x + keras.ops.cast(keras.random.randint(keras.ops.shape(x), 0, 9), "float32"),
}


def random_by_row(name: str) -> Callable[[], None]:
    class Noise(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return DRAWS[name](inputs)

    return lambda: assert_one_device(lambda: compiled(lambda: dense(Noise())), random_by_row=True)


for name in DRAWS:
    canary(f"tensorflow.random.{name}")(random_by_row(name))


@canary("src.backend.rnn")
def recurrent_layer_on_a_mesh() -> None:
    def build() -> keras.Model:
        return keras.Sequential([keras.Input((4,)), keras.layers.Reshape((2, 2)), keras.layers.LSTM(3)])

    assert_one_device(lambda: compiled(build, loss="mse"), (rows()[0], rows()[0][:, :3]), mesh=True)


@functools.cache
def split_columns() -> tf.distribute.Strategy:
    rules = {"(columns|inner)/kernel$": (None, "model")}
    return create_strategy("mesh", mesh={"batch": 2, "model": 2}, layout_map=rules)


def inner() -> keras.layers.Layer:
    return keras.layers.Dense(4, name="inner")


def behind_split_columns(shape: tuple[int, ...], create: Callable[[], Any]) -> Callable[[], None]:
    def build() -> keras.Model:
        inputs = keras.Input((4,))
        columns = keras.layers.Dense(math.prod(shape), "tanh", name="columns")(inputs)
        outputs = keras.layers.Flatten()(create()(keras.layers.Reshape(shape)(columns)))
        return keras.Model(inputs, keras.layers.Dense(3)(outputs))

    def check() -> None:
        found = result(split_columns().scope(), lambda: compiled(build), rows(16))
        expected = result(contextlib.nullcontext(), lambda: compiled(build), rows(16))
        for one, other in zip(found, expected, strict=True):
            assert relative_difference(one, other, 1.0) <= RELATIVE_TOLERANCE

    def check_refused() -> None:
        with pytest.raises(UnsupportedError, match="cannot train the layer"):
            result(split_columns().scope(), lambda: compiled(build), rows(16))

    return check_refused if create in REFUSED.values() else check


REFUSED: dict[str, Callable[[], Any]] = {
    "tensorflow.nn.average_pool": lambda: keras.layers.AveragePooling2D(2),
    "tensorflow.nn.depthwise_conv": lambda: keras.layers.DepthwiseConv2D(3),
    "tensorflow.nn.separable_conv": lambda: keras.layers.SeparableConv2D(2, 3),
}
# A layer that fails behind split columns without the patch.
BEHIND_COLUMNS: dict[str, tuple[tuple[int, ...], Callable[[], Any]]] = {
    "tensorflow.nn.conv": ((6, 6, 2), lambda: keras.layers.Conv2D(2, 3)),
    "tensorflow.nn.conv_transpose": ((6, 6, 2), lambda: keras.layers.Conv2DTranspose(2, 3)),
    "tensorflow.nn.max_pool": ((6, 6, 2), lambda: keras.layers.MaxPooling2D(2)),
    "Maximum._merge_function": ((6, 4), lambda: lambda x: keras.layers.Maximum()([x, inner()(x)])),
    "Minimum._merge_function": ((6, 4), lambda: lambda x: keras.layers.Minimum()([x, inner()(x)])),
    "tensorflow.numpy.pad": ((6, 4), lambda: keras.layers.ZeroPadding1D(1)),
    "tensorflow.numpy.split": (
        (8,),
        lambda: lambda x: keras.ops.concatenate(keras.ops.split(x, 4, axis=1)[::-1], axis=1),
    ),
    "TimeDistributed.call": ((6, 4), lambda: keras.layers.TimeDistributed(inner())),
    "tensorflow.image.resize": ((6, 6, 2), lambda: keras.layers.Resizing(4, 4)),
    **{name: ((6, 6, 2), create) for name, create in REFUSED.items()},
}
for name, (shape, create) in BEHIND_COLUMNS.items():
    canary(f".{name}")(behind_split_columns(shape, create))


@functools.cache
def split_vocabulary() -> tf.distribute.Strategy:
    rules = {"embeddings$": ("model", None)}
    return create_strategy("mesh", mesh={"batch": 1, "model": 2}, layout_map=rules)


@canary("tensorflow.numpy.take")
def vocabulary_split_over_a_mesh() -> None:
    """The table is not put together."""
    table = (64, 8)
    with split_vocabulary().scope():
        model = compiled(
            lambda: keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(*table)]),
            loss="mse",
        )
    ids = np.arange(12).reshape(4, 3)
    found = mesh_collectives(lambda: model.fit(ids, np.zeros((4, 3, 8)), batch_size=4, verbose=0))
    assert table not in {one.shape for one in found}


@canary("tensorflow.numpy.flip")
def random_flips_on_a_mesh() -> None:
    class Flip(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            return keras.ops.flip(inputs, axis=1)

    assert_one_device(lambda: compiled(lambda: dense(Flip())), mesh=True)


@canary("tensorflow.numpy.diag", "tensorflow.core.scatter")
def intersection_over_union_on_a_mesh() -> None:
    def make() -> keras.Model:
        return compiled(metrics=[keras.metrics.OneHotMeanIoU(3, sparse_y_pred=False)], loss="mse")

    assert_one_device(make, (rows()[0], np.eye(3, dtype="float32")[rows()[1]]), mesh=True)


@canary("get_metrics_result")
def metric_computed_of_a_variable_and_a_constant_on_a_mesh() -> None:
    assert_one_device(
        lambda: compiled(metrics=[keras.metrics.R2Score()], loss="mse"),
        (rows()[0], np.eye(3, dtype="float32")[rows()[1]]),
        mesh=True,
    )


@canary("_maybe_symbolic_build")
def generator_without_loss() -> None:
    def batches() -> Iterator[Any]:
        features, labels = rows(24)
        for start in range(0, 24, BATCH):
            yield features[start : start + BATCH], labels[start : start + BATCH]

    def trained(scope: Any) -> Any:
        with scope:
            model = compiled(lambda: keras.Sequential([keras.layers.Dense(3)]))
        model.fit(batches(), verbose=0)
        return model.get_weights()[1]

    expected = trained(contextlib.nullcontext())
    np.testing.assert_allclose(trained(strategy().scope()), expected, atol=RELATIVE_TOLERANCE)


@canary("_create_device_dataset")
def iterators_that_do_not_tune_themselves() -> None:
    made = []
    inner = multi_device_iterator_ops._create_device_dataset

    def recorded(*args: Any) -> Any:
        made.append(inner(*args))
        return made[-1]

    multi_device_iterator_ops._create_device_dataset = recorded
    try:
        iter(strategy().distribute_batches(tf.data.Dataset.range(4).batch(4)))
    finally:
        multi_device_iterator_ops._create_device_dataset = inner
    assert made and all(dataset.options().autotune.enabled is False for dataset in made)


def shapes_of_training(**options: Any) -> set[Any]:
    shapes = set()

    class Recorder(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            if not tf.distribute.in_cross_replica_context():
                shapes.add(inputs.shape[0])
            return inputs

    with strategy(static=True).scope():
        model = compiled(lambda: dense(Recorder()), **options)
    model.fit(*rows(), batch_size=BATCH, verbose=0)
    return shapes


@canary("TFEpochIterator.__init__")
def batches_of_one_shape() -> None:
    assert shapes_of_training() == {BATCH // 2}


@canary("_make_function")
def several_steps_in_one_call() -> None:
    assert_one_device(lambda: compiled(steps_per_execution=2))


@canary("TensorFlowTrainer.train_step")
def one_collective_a_step() -> None:
    assert collectives(metrics=["accuracy"]) == 1


@canary("TFEpochIterator.reset")
def batches_that_the_workers_agreed_on() -> None:
    iterator = TFEpochIterator(strategy(), x=np.zeros((16, 4), "float32"), batch_size=BATCH)
    iterator._distributed_dataset.num_batches = 5
    iterator.reset()
    assert iterator.num_batches == 5


@canary("make_predict_function")
def predict_on_batch() -> None:
    with strategy().scope():
        model = dense()
    features = rows(5)[0]
    np.testing.assert_allclose(model.predict_on_batch(features), model(features), atol=1e-6)


def outsider() -> keras.Model:
    model = compiled()
    model.predict(rows(8)[0], verbose=0)
    return model


@canary("TensorFlowTrainer.fit")
def fit_of_a_model_from_outside() -> None:
    model = outsider()
    with strategy().scope(), pytest.raises(UnsupportedError, match="outside of strategy"):
        model.fit(*rows(8), verbose=0)


@canary("TensorFlowTrainer.evaluate")
def evaluate_of_a_model_from_outside() -> None:
    model = outsider()
    with strategy().scope(), pytest.raises(UnsupportedError, match="outside of strategy"):
        model.evaluate(*rows(8), verbose=0)


@canary("TensorFlowTrainer.predict")
def predict_of_a_model_from_outside() -> None:
    model = outsider()
    with strategy().scope(), pytest.raises(UnsupportedError, match="outside of strategy"):
        model.predict(rows(8)[0], verbose=0)
