"""Which losses of Keras are means over rows: every one is tried, so that a new one is found."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist._internals.step.whole_batch import mixes_rows, needs_whole_batch

ROWS, CLASSES = 6, 5
NO_LOSSES = {"Loss", "get", "serialize", "deserialize"}
_found = {
    name: loss
    for name, loss in vars(keras.losses).items()
    if inspect.isroutine(loss) or inspect.isclass(loss)
}
# A function with an alias, as mse, counts once.
LOSSES = {
    name: loss
    for loss, name in {loss: name for name, loss in _found.items()}.items()
    if name not in NO_LOSSES
}
# What they cannot do without.
ARGUMENTS = {name: {"q": 0.5} for name in LOSSES if "generalized" in name.lower()}
INDICES = {name for name in LOSSES if "sparse" in name.lower()} | set(ARGUMENTS)


def batch(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and predictions that the loss takes; the rows differ in their sums."""
    generator = np.random.default_rng(0)
    codes = np.eye(CLASSES, dtype="float32")[[0, 0, 1, 1, 0, 1]]
    predictions = generator.random((ROWS, CLASSES)).astype("float32")
    if name.lower() == "ctc":
        return generator.integers(1, 4, (ROWS, 3)), generator.random((ROWS, 7, CLASSES)).astype("float32")
    if name in INDICES or name.lower() == "circle":
        return codes.argmax(-1), predictions
    return codes * 2 - 1 if "hinge" in name.lower() else codes, predictions


def value_of(name: str, options: dict[str, Any]) -> Callable[..., float]:
    """Returns the function from labels and predictions to the value of a loss, a class or a function."""
    loss = LOSSES[name]
    if inspect.isclass(loss):
        return lambda labels, predictions: float(loss(**options)(labels, predictions))
    if name == "circle":  # what its class gives it
        return lambda labels, predictions: float(
            np.mean(loss(labels, predictions, ref_labels=labels, ref_embeddings=predictions))
        )
    return lambda labels, predictions: float(np.mean(loss(labels, predictions, **options)))


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_no_mean_over_rows_is_known(name: str) -> None:
    loss = LOSSES[name]
    has_axis = "axis" in inspect.signature(loss).parameters and not name.lower().startswith("sparse")
    for axis in [{}, {"axis": 0}, {"axis": 1}, {"axis": (1,)}] if has_axis else [{}]:
        options = ARGUMENTS.get(name, {}) | axis
        labels, predictions = batch(name)
        value = value_of(name, options)
        whole = value(labels, predictions)
        by_row = [value(labels[i : i + 1], predictions[i : i + 1]) for i in range(ROWS)]
        is_mean = abs(whole - np.mean(by_row)) <= 1e-4 * abs(whole)
        if inspect.isclass(loss):
            found = needs_whole_batch(loss(**options), tf.constant(predictions))
        else:
            found = mixes_rows(loss, options, predictions.ndim)
        assert found is not is_mean, f"{name} {axis}: {whole} of the batch, {np.mean(by_row)} by rows"
