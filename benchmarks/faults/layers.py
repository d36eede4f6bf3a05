"""Layers of the user's own that mix the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.faults.model import compiled, fault


class Mixing(keras.layers.Layer):
    """Applies a function to the rows of a batch together."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def call(self, inputs: Any) -> Any:
        """Mixes the rows."""
        return self.function(inputs)


def _deviation(x: Any) -> Any:
    spread = tf.reduce_mean(tf.math.reduce_std(x, 0))
    return tf.concat([x, tf.fill([tf.shape(x)[0], 1], spread)], -1)


def _own_norm(x: Any) -> Any:
    return (x - tf.reduce_mean(x, 0)) / (tf.math.reduce_std(x, 0) + 1e-3)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "layer: batch normalization by hand": _own_norm,
    "layer: less the mean of the batch": lambda x: x - tf.reduce_mean(x, 0),
    "layer: the deviation over the batch as a feature": _deviation,
    "layer: softmax over the batch": lambda x: tf.nn.softmax(x, 0),
    "layer: divided by the largest of the batch": lambda x: x / (tf.reduce_max(tf.abs(x)) + 1e-3),
    "layer: rows rolled by one": lambda x: x + tf.roll(x, 1, 0),
    "layer: mixed with the batch in reverse": lambda x: 0.7 * x + 0.3 * tf.reverse(x, [0]),
    "layer: ranks within the batch": lambda x: x * tf.cast(tf.argsort(tf.argsort(x, 0), 0), x.dtype),
    "layer: attention over the rows": lambda x: tf.nn.softmax(x @ tf.transpose(x)) @ x,
    "layer: sums over the batch": lambda x: x + 0.1 * tf.reduce_sum(x, 0),
    "layer: scaled by the number of rows": lambda x: x * tf.cast(tf.shape(x)[0], x.dtype),
}

for _name, _function in FUNCTIONS.items():
    fault(_name)(lambda function=_function: compiled(None, lambda: Mixing(function)))
