"""A run that is saved under one strategy and continued under another goes on as if never moved."""

from __future__ import annotations

import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
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
    model = keras.Sequential([keras.Input((8,), name="rows"), *layers], name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05, name="adam"), loss, metrics=["accuracy"])
    return model


def train(model: keras.Model) -> list[np.ndarray]:
    """Trains for two epochs; returns weights and the optimizer's state."""
    model.fit(*rows(), batch_size=8, epochs=2, shuffle=False, verbose=0)
    return [np.asarray(variable) for variable in (*model.weights, *model.optimizer.variables)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def never_moved(folder: Path) -> list[np.ndarray]:
    """A model of two epochs is saved, and trained for two more."""
    model = build()
    train(model)
    model.save(folder / "plain.keras")
    return train(model)


def saved(folder: Path, name: str) -> Path:
    """Returns a model of two epochs under one of the strategies."""
    path = folder / f"{name}.keras"
    if not path.exists():
        with STRATEGIES[name]().scope():
            model = build()
        train(model)
        model.save(path)
    return path


def contents(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """Returns the configuration in a `.keras` file, and its arrays by path."""
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive:
        with archive.open("model.weights.h5") as weights, h5py.File(weights) as file:
            file.visititems(
                lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        config = archive.read("config.json").decode()
    return re.sub(r'"shared_object_id": \d+', "", config), arrays


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_file_is_that_of_one_device(never_moved, folder: Path, name: str) -> None:
    """So whatever can go on from the one can go on from the other."""
    (config, found), (expected_config, expected) = (
        contents(saved(folder, name)),
        contents(folder / "plain.keras"),
    )
    assert config == expected_config
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_allclose(
            found[path], value, rtol=RELATIVE_TOLERANCE, atol=RELATIVE_TOLERANCE, err_msg=path
        )


@pytest.mark.parametrize(
    ("name", "before"), zip(STRATEGIES, [*list(STRATEGIES)[1:], *list(STRATEGIES)[:1]], strict=True)
)
def test_continued_elsewhere(never_moved, folder: Path, name: str, before: str) -> None:
    file = saved(folder, before)  # which may be written now, in a scope of its own
    with STRATEGIES[name]().scope():
        model = keras.saving.load_model(file)
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
