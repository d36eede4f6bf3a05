"""`create_strategy`: names, options, what is refused, and strategies that live side by side."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.errors import ConfigError, UnsupportedError
from tfdist.parity.comparison import RELATIVE_TOLERANCE


def test_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no strategy 'miror'.*Did you mean 'mirrored'"):
        tfdist.create_strategy("miror")


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ConfigError, match="needs the option 'mesh'.*mesh={'batch': 2, 'model': 2}"):
        tfdist.create_strategy("mesh")


def test_unknown_option_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="no option 'device'.*'devices'.*Did you mean 'devices'"):
        tfdist.create_strategy("mirrored", device=2)


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )


def test_creation_after_tensorflow_runs_is_refused_with_the_cure() -> None:
    done = run_script(
        "import tensorflow as tf, tfdist; tf.constant(1) + 1; tfdist.create_strategy('mirrored', devices=3)"
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "3 logical CPU devices were asked for, but TensorFlow already runs with 1" in last
    assert "before any tensor, layer or dataset is made" in last


def model_in(strategy: tf.distribute.Strategy) -> keras.Model:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.5), "mse")
    return model


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((count, 3)).astype("float32"), generator.random((count, 2), np.float32)


def trained(strategy: tf.distribute.Strategy) -> list[np.ndarray]:
    model = model_in(strategy)
    model.fit(*rows(19), batch_size=8, shuffle=False, verbose=0)
    return model.get_weights()


def test_two_strategies_in_one_process_train_as_one_device() -> None:
    expected = trained(tfdist.create_strategy("one_device"))
    for devices in (2, 4):
        for found, weight in zip(
            trained(tfdist.create_strategy("mirrored", devices=devices)), expected, strict=True
        ):
            np.testing.assert_allclose(found, weight, atol=RELATIVE_TOLERANCE)


@pytest.fixture(scope="module")
def mirrored() -> tf.distribute.Strategy:
    return tfdist.create_strategy("mirrored", devices=2)


def test_a_model_from_outside_of_the_scope_is_refused(mirrored: Any) -> None:
    model = model_in(tf.distribute.get_strategy())
    with (
        mirrored.scope(),
        pytest.raises(UnsupportedError, match="was made outside of strategy.scope"),
    ):
        model.fit(*rows(8), verbose=0)


def test_an_optimizer_from_outside_of_the_scope_is_refused(mirrored: Any) -> None:
    optimizer = keras.optimizers.Adam(name="adam")
    with mirrored.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(optimizer, "mse")
    with pytest.raises(
        UnsupportedError, match="the optimizer 'adam' was made outside.*compile with its name"
    ):
        model.fit(*rows(8), verbose=0)


def test_a_training_loop_of_the_users_own_works_as_in_stock(mirrored: Any) -> None:
    with mirrored.scope():
        weight = tf.Variable(1.0)
    dataset = mirrored.experimental_distribute_dataset(tf.data.Dataset.range(8).batch(4))

    @tf.function
    def total(batch: Any) -> tf.Tensor:
        sums = mirrored.run(lambda rows: tf.reduce_sum(tf.cast(rows, tf.float32)) * weight, args=(batch,))
        return mirrored.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    assert [float(total(batch)) for batch in dataset] == [6.0, 22.0]
