"""Several models that are trained in one process, as a search for hyper-parameters does."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfdist


def test_no_model_is_said_to_be_traced_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    strategy = tfdist.create_strategy("mirrored", devices=2, self_check="off")
    inputs, targets = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
    for _ in range(6):
        with strategy.scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(inputs, targets, verbose=0)
        model.evaluate(inputs, targets, verbose=0)
        model.predict(inputs, verbose=0)
    assert "retracing" not in caplog.text
