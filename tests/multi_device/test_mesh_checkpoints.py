"""A run that is saved under one strategy and continued under another goes on as if never moved."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.numerics import RELATIVE_TOLERANCE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RULES = {"up/kernel$": (None, "model"), "up/bias$": ("model",), "down/kernel$": ("model", None)}


def mesh(axes: dict[str, int], **options: Any) -> tf.distribute.Strategy:
    rules = RULES if "model" in axes else {}
    return tfdist.create_strategy("mesh", mesh=axes, layout_map=rules, **options)


STRATEGIES: dict[str, Callable[[], tf.distribute.Strategy]] = {
    "one_device": lambda: tfdist.create_strategy("one_device"),
    "mirrored of 4": lambda: tfdist.create_strategy("mirrored", devices=4),
    "mesh 4x1, shard_optimizer": lambda: mesh({"batch": 4}, shard_optimizer=True),
    "mesh 2x2, shard_weights": lambda: mesh({"batch": 2, "model": 2}, shard_weights=True),
    "mesh 1x4": lambda: mesh({"model": 4}),
}


def rows() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((21, 8)).astype("float32"), generator.integers(0, 4, 21)


def build() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, "tanh", name="up"), keras.layers.Dense(4, name="down")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, metrics=["accuracy"])
    return model


def train(model: keras.Model) -> list[np.ndarray]:
    """Trains for two epochs; returns weights and the optimizer's state."""
    model.fit(*rows(), batch_size=8, epochs=2, shuffle=False, verbose=0)
    return [np.asarray(variable) for variable in (*model.weights, *model.optimizer.variables)]


@pytest.fixture(scope="module")
def never_moved() -> list[np.ndarray]:
    model = build()
    train(model)
    return train(model)


@pytest.fixture(scope="module", params=STRATEGIES)
def saved(request, tmp_path_factory) -> Path:
    """A model of two epochs under one of the strategies, as `.keras` and as weights."""
    folder = tmp_path_factory.mktemp("saved")
    with STRATEGIES[request.param]().scope():
        model = build()
    train(model)
    model.save(folder / "model.keras")
    return folder / "model.keras"


@pytest.mark.parametrize("name", STRATEGIES)
def test_continued_elsewhere(never_moved, saved: Path, name: str) -> None:
    with STRATEGIES[name]().scope():
        model = keras.saving.load_model(saved)
    assert model.optimizer.iterations.numpy() == 6
    for value, expected in zip(train(model), never_moved, strict=True):
        np.testing.assert_allclose(value, expected, rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE)


def test_saving_holds_one_whole_variable_at_a_time(tmp_path: Path) -> None:
    """Twelve matrices of 4 MiB and as many of the optimizer: never more than two of them are on the host."""
    size = 1024
    with mesh({"batch": 4}, shard_weights=True).scope():
        hidden = [keras.layers.Dense(size, use_bias=False, kernel_initializer="zeros") for _ in range(12)]
        model = keras.Sequential([keras.Input((size,)), *hidden])
        model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
        model.optimizer.build(model.trainable_variables)
    tracemalloc.start()
    model.save_weights(tmp_path / "model.weights.h5")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "model.weights.h5").stat().st_size > 12 * 4 * size * size
    assert peak < 2.5 * 4 * size * size
