"""Batches padded to one static shape, as a TPU wants them, give the one-device result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist._internals.registry import apply_patches
from tfdist.errors import DataError
from tfdist.strategies.mirrored import Mirrored
from tfdist.testing.inspection import traced_functions
from tfdist.testing.numerics import relative_difference

FEATURES, CLASSES, BATCH = 5, 3, 8
# 29 = 3 batches of 8 and one of 5; 25 leaves a single row, so that replicas run on padding alone.
SIZES = (29, 25)


class StaticMirrored(Mirrored):
    """What a TPU does to batches, on CPU devices."""

    static_shapes = True


@pytest.fixture(scope="module", params=[1, 2, 4])
def strategy(request: pytest.FixtureRequest) -> tf.distribute.Strategy:
    created = StaticMirrored(request.param)
    apply_patches()
    return created


def rows(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(count)
    features = generator.standard_normal((count, FEATURES)).astype("float32")
    features[::3] *= 3.0
    return (
        features,
        generator.integers(0, CLASSES, count),
        generator.uniform(0.2, 2.0, count).astype("float32"),
    )


def plain_model() -> keras.Model:
    return keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(CLASSES)]
    )


def norm_model(synchronized: bool = True) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(4, activation="tanh"),
            keras.layers.BatchNormalization(momentum=0.5, synchronized=synchronized),
            keras.layers.Dense(CLASSES),
        ]
    )


def masked_model() -> keras.Model:
    """One label a step, steps of id 0 masked."""
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(20, 4, mask_zero=True),
            keras.layers.Dense(CLASSES),
        ]
    )


def outcome(
    scope: Any, build: Callable[[], keras.Model], data: tuple[Any, ...], optimizer: Any = None, **fit: Any
) -> tuple[dict[str, np.ndarray], keras.Model]:
    keras.utils.set_random_seed(3)
    with scope:
        model = build()
        model.compile(
            keras.optimizers.get(optimizer) if optimizer else keras.optimizers.SGD(0.5),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")],
        )
    x, y, *weights = data
    weight = weights[0] if weights else None
    history = model.fit(
        x,
        y,
        sample_weight=weight,
        validation_data=(x[:11], y[:11]),
        epochs=2,
        verbose=0,
        **{"batch_size": BATCH, "shuffle": False} | fit,
    )
    found = {f"weights {index}": value for index, value in enumerate(model.get_weights())}
    found |= {f"history {key}": np.asarray(value) for key, value in history.history.items()}
    found["predict"] = model.predict(x, batch_size=BATCH, verbose=0)
    return found, model


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    differences = {key: relative_difference(found[key], expected[key], 1.0) for key in expected}
    assert max(differences.values()) <= 1e-5, differences


@contextlib.contextmanager
def no_scope() -> Iterator[None]:
    yield


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weighted", [False, True], ids=["rows", "weighted"])
def test_static_batches_train_as_one_device(strategy: Any, size: int, weighted: bool) -> None:
    data = rows(size)[: 3 if weighted else 2]
    expected, _ = outcome(no_scope(), plain_model, data, "adamw")
    found, _ = outcome(strategy.scope(), plain_model, data, "adamw")
    assert_same(found, expected)
    assert len(found["predict"]) == size


@pytest.mark.parametrize("size", SIZES)
def test_static_batches_keep_padding_out_of_synchronized_statistics(strategy: Any, size: int) -> None:
    data = rows(size)[:2]
    expected, _ = outcome(no_scope(), norm_model, data)
    found, _ = outcome(strategy.scope(), norm_model, data)
    assert_same(found, expected)


def test_static_batches_keep_padding_out_of_local_statistics(strategy: Any) -> None:
    if strategy.num_replicas_in_sync > 1:
        pytest.skip("statistics of each replica's own rows differ from one device by definition")
    data = rows(29)[:2]
    expected, _ = outcome(no_scope(), lambda: norm_model(synchronized=False), data)
    found, _ = outcome(strategy.scope(), lambda: norm_model(synchronized=False), data)
    assert_same(found, expected)


@pytest.mark.parametrize("size", SIZES)
def test_static_batches_with_masks_train_as_one_device(strategy: Any, size: int) -> None:
    generator = np.random.default_rng(size)
    lengths = generator.integers(1, 7, size)
    ids = generator.integers(1, 20, (size, 6)) * (np.arange(6) < lengths[:, None])
    data = (ids.astype("int32"), generator.integers(0, CLASSES, (size, 6)))
    expected, _ = outcome(no_scope(), masked_model, data)
    found, _ = outcome(strategy.scope(), masked_model, data)
    assert_same(found, expected)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_an_epoch_is_traced_once(strategy: Any, steps_per_execution: int) -> None:
    x, y, _ = rows(29)
    with strategy.scope():
        model = plain_model()
        model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    model.fit(x, np.eye(CLASSES)[y], batch_size=BATCH, epochs=2, verbose=0)
    counts = [
        function.experimental_get_tracing_count() for function in traced_functions(model.train_function)
    ]
    # Of the functions that `fit` may use, each is traced once at most.
    assert counts and max(counts) == 1, counts


def test_a_dataset_of_plain_batches_is_padded(strategy: Any) -> None:
    x, y, _ = rows(29)
    shapes = set()

    class Recorder(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            shapes.add(inputs.shape[0])
            return inputs

    with strategy.scope():
        model = keras.Sequential([Recorder(), keras.layers.Dense(CLASSES)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).prefetch(1), verbose=0)
    # None is Keras's symbolic build.
    assert shapes - {None} == {BATCH // strategy.num_replicas_in_sync}


def test_batches_of_unknown_size_are_refused(strategy: Any) -> None:
    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            yield rows(BATCH)[:2]

    with strategy.scope():
        model = plain_model()
        model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(DataError, match="pad_batches"):
        model.fit(batches(), steps_per_epoch=2, verbose=0)
