"""Sees every Keras variable that a replica writes, and keeps padding out of metrics.

What is written tells which variables the replicas must share at the end of the step (moving statistics), and which
metrics have something new. A replica without rows of its own runs on one row of padding, so that no layer meets an
empty batch; what its metrics would count of that row is not stored.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.core import Variable

from tfdist._internals.registry import Patch
from tfdist._internals.replica.step import current_step


def _recorded(stock: Any) -> Any:
    def _direct_assign(self: Any, value: Any) -> Any:
        step = current_step()
        if step is not None:
            step.written.append(self)
            # On a mesh the one replica always has rows, and DTensor crashes on a scalar condition.
            if self.synchronization == "on_read" and step.everywhere is None:
                stored = self._value
                value = tf.where(step.has_rows, tf.cast(value, stored.dtype), tf.convert_to_tensor(stored))
        return stock(self, value)

    return _direct_assign


PATCHES = (
    Patch(
        name="variables",
        owner=Variable,
        attribute="_direct_assign",
        make=_recorded,
        reason="nothing tells which variables a step wrote, and a replica without rows crashes or counts padding",
        upstream="https://github.com/keras-team/keras/issues/19246",
    ),
)
