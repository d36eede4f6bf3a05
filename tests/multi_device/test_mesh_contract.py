"""What a mesh is to callbacks and to models that do things their own way."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist._internals.contract import describe
from tfdist.callbacks import LearningRateWarmup
from tfdist.errors import ConfigError, UnsupportedError
from tfdist.measure.learning_rate import current_learning_rate
from tfdist.measure.run_description import describe_strategy


@pytest.fixture(scope="module")
def strategy() -> tf.distribute.Strategy:
    return tfdist.create_strategy(
        "mesh", mesh={"batch": 2, "model": 2}, layout_map={"up/kernel$": (None, "model")}
    )


def build(strategy: tf.distribute.Strategy, name: str = "up", kind: Any = keras.Sequential) -> keras.Model:
    with strategy.scope():
        model = kind(
            [keras.Input((4,)), keras.layers.Dense(4, name=name), keras.layers.Dense(2, name="head")]
        )
        model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def data(rows: int = 8) -> tuple[np.ndarray, np.ndarray]:
    return np.ones((rows, 4), "float32"), np.ones((rows, 2), "float32")


def test_warmup_is_scaled_by_the_batch_axis(strategy: tf.distribute.Strategy) -> None:
    seen: list[float] = []
    model = build(strategy)
    record = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(current_learning_rate(model.optimizer))
    )
    warmup = LearningRateWarmup(num_steps=2, scale_by_replicas=True)
    model.fit(*data(), batch_size=2, verbose=0, callbacks=[warmup, record])
    # From the rate of one device to that of the two parts that share the rows.
    np.testing.assert_allclose(seen, [0.1, 0.15, 0.2, 0.2], rtol=1e-6)


def test_it_is_called_by_its_public_name(strategy: tf.distribute.Strategy) -> None:
    assert describe(strategy) == "mesh batch=2 model=2"
    assert "| strategy | mesh batch=2 model=2 |" in describe_strategy(build(strategy))


def test_each_of_two_models_checks_the_rules_for_itself(strategy: tf.distribute.Strategy) -> None:
    build(strategy).fit(*data(), verbose=0)
    student = build(strategy, name="down")
    with pytest.raises(ConfigError, match=r"'up/kernel\$' matches no variable"):
        student.fit(*data(), verbose=0)


def test_an_own_training_function_is_refused(strategy: tf.distribute.Strategy) -> None:
    class Own(keras.Sequential):
        def make_train_function(self, force: bool = False) -> Any:
            raise AssertionError("is not asked")

    with pytest.raises(UnsupportedError, match="Own overrides make_train_function.*Override train_step"):
        build(strategy, kind=Own).fit(*data(), verbose=0)
