"""Batches padded to one static shape, as a TPU wants them, give the one-device result."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist._internals.patches import apply_patches
from tfdist.errors import DataError
from tfdist.log import warn_once
from tfdist.numerics import RELATIVE_TOLERANCE, relative_difference
from tfdist.strategies.mirrored import Mirrored

FEATURES, CLASSES, BATCH = 5, 3, 8


class StaticMirrored(Mirrored):
    """What a TPU does to batches, on CPU devices."""

    pads_batches = True


@functools.cache
def strategy_of(num_replicas: int) -> tf.distribute.Strategy:
    created = StaticMirrored(num_replicas)
    apply_patches()
    return created


@pytest.fixture
def pair() -> tf.distribute.Strategy:
    return strategy_of(2)


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
    scope: Any, build: Callable[[], keras.Model], data: tuple[Any, ...], optimizer: str
) -> dict[str, np.ndarray]:
    keras.utils.set_random_seed(3)
    with scope:
        model = build()
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="entropy")],
        )
        model.optimizer.learning_rate.assign(0.1)
    x, y, *weights = data
    history = model.fit(
        x,
        y,
        sample_weight=weights[0] if weights else None,
        validation_data=(x[:11], y[:11]),
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
    )
    found = {f"weights {index}": value for index, value in enumerate(model.get_weights())}
    found |= {f"history {key}": np.asarray(value) for key, value in history.history.items()}
    found["predict"] = model.predict(x, batch_size=BATCH, verbose=0)
    return found


def masked_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(count)
    lengths = generator.integers(1, 7, count)
    ids = generator.integers(1, 20, (count, 6)) * (np.arange(6) < lengths[:, None])
    return ids.astype("int32"), generator.integers(0, CLASSES, (count, 6))


# 29 rows are 3 batches of 8 and one of 5; 25 leave a single row, so that replicas run on padding alone.
CASES = {
    "weights": (plain_model, rows(25), "adamw"),
    "batch normalization": (norm_model, rows(25)[:2], "sgd"),
    "masks": (masked_model, masked_rows(25), "sgd"),
    "rows": (plain_model, rows(29)[:2], "sgd"),
}


@functools.cache
def one_device(case: str) -> dict[str, np.ndarray]:
    return outcome(contextlib.nullcontext(), *CASES[case])


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    differences = {key: relative_difference(found[key], expected[key], 1.0) for key in expected}
    assert max(differences.values()) <= RELATIVE_TOLERANCE, differences


@pytest.mark.parametrize("num_replicas", [1, 2, 4])
@pytest.mark.parametrize("case", CASES)
def test_static_batches_train_as_one_device(num_replicas: int, case: str) -> None:
    found = outcome(strategy_of(num_replicas).scope(), *CASES[case])
    assert_same(found, one_device(case))
    assert len(found["predict"]) == len(CASES[case][1][0])


def test_padding_stays_out_of_local_statistics() -> None:
    case = (lambda: norm_model(synchronized=False), *CASES["batch normalization"][1:])
    expected = outcome(contextlib.nullcontext(), *case)
    # One replica, whose own statistics are those of one device.
    assert_same(outcome(StaticMirrored(1).scope(), *case), expected)


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_all_batches_are_traced_once(pair: Any, steps_per_execution: int) -> None:
    x, y, _ = rows(29)
    traced_shapes = []

    class Recorder(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            if tf.distribute.in_cross_replica_context():
                return inputs  # Keras's symbolic build
            traced_shapes.append(tuple(inputs.shape))
            return inputs

    with pair.scope():
        model = keras.Sequential([Recorder(), plain_model()])
        model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    dataset = tf.data.Dataset.from_tensor_slices((x, np.eye(CLASSES)[y])).batch(BATCH).prefetch(1)
    model.fit(dataset, epochs=2, verbose=0)
    # Once for each of the two replicas, all with the one padded shape.
    assert traced_shapes == [(BATCH // 2, FEATURES)] * 2


def test_batches_of_unknown_size_are_refused(pair: Any) -> None:
    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            yield rows(BATCH)[:2]

    with pair.scope():
        model = plain_model()
        model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(DataError, match="pad_batches"):
        model.fit(batches(), steps_per_epoch=2, verbose=0)


def test_a_loss_that_would_count_padding_is_told(pair: Any, caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    with pair.scope():
        model = plain_model()
        model.compile("sgd", lambda y, predictions: keras.ops.mean(predictions))
    x, y, _ = rows(9)
    with caplog.at_level("WARNING", logger="tfdist"):
        model.fit(x, y, batch_size=BATCH, verbose=0)
    assert "counts the rows that pad a smaller batch" in caplog.text
