"""State of layers and metrics that is no mean and no sum over the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.faults.model import compiled, fault


class Keeping(keras.layers.Layer):
    """Keeps something of the rows of each training step."""

    def __init__(self, keep: Callable[[Any, Any], Any], shape: tuple[int, ...] = (8,)) -> None:
        super().__init__()
        self.keep, self.shape = keep, shape

    def build(self, input_shape: Any) -> None:
        """Makes the state."""
        self.state = self.add_weight(shape=self.shape, initializer="zeros", trainable=False, name="state")

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Keeps."""
        if training:
            self.state.assign(self.keep(self.state.value, inputs))
        return inputs


KEPT: dict[str, tuple[Callable[[Any, Any], Any], tuple[int, ...]]] = {
    "state: the largest value seen": (lambda s, x: tf.maximum(s, tf.reduce_max(x, 0)), (8,)),
    "state: the number of rows seen": (lambda s, x: s + tf.cast(tf.shape(x)[0], s.dtype), ()),
    "state: the sum of the rows": (lambda s, x: s + tf.reduce_sum(x, 0), (8,)),
    "state: the last row": (lambda s, x: x[-1], (8,)),
    "state: a queue of rows": (lambda s, x: tf.concat([x, s], 0)[:12], (12, 8)),
    "state: a variance of the batch": (lambda s, x: tf.math.reduce_variance(x, 0), (8,)),
    "state: a norm of the batch": (lambda s, x: s + tf.norm(x), ()),
}

for _name, (_keep, _shape) in KEPT.items():
    fault(_name)(lambda keep=_keep, shape=_shape: compiled(None, lambda: Keeping(keep, shape)))


class OwnMetric(keras.metrics.Metric):
    """Keeps something of the predictions."""

    def __init__(self, keep: Callable[[Any, Any], Any]) -> None:
        super().__init__(name="own")
        self.keep = keep
        self.state = self.add_variable((), "ones", name="state")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Keeps."""
        self.state.assign(self.keep(self.state.value, y_pred))

    def result(self) -> Any:
        """The state."""
        return self.state.value


METRICS: dict[str, Callable[[Any, Any], Any]] = {
    "metric: the largest prediction": lambda s, p: tf.maximum(s, tf.reduce_max(tf.abs(p))),
    "metric: a product with the mean of the batch": lambda s, p: (s + 1.0) * tf.reduce_mean(tf.abs(p)),
    "metric: the last prediction": lambda s, p: p[-1, 0],
    "metric: the deviation of the batch": lambda s, p: s + tf.math.reduce_std(p),
}

for _name, _keep in METRICS.items():
    fault(_name)(lambda keep=_keep: compiled(None, metrics=[OwnMetric(keep)]))
