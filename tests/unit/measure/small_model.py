"""A model small enough to compile in a second, and its data."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfdist._internals.patches import apply_patches


@pytest.fixture
def model() -> keras.Model:
    apply_patches()  # as the first strategy of a process does: no test may depend on which ran before
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(
        keras.optimizers.SGD(0.1), "mse", metrics=["mae"], run_eagerly=True
    )  # compiling costs a second
    return model


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    """37 examples: 5 steps of 8, the last with 5."""
    rng = np.random.default_rng(7)
    return rng.normal(size=(37, 4)).astype("float32"), rng.normal(size=(37, 2)).astype("float32")
