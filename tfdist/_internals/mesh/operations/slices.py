"""Gradients of embeddings that are slices of a table, as optimizers take them."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src import backend

from tfdist._internals.mesh.step import MeshStep


def divide(step: MeshStep, stock: Any, x1: Any, x2: Any) -> Any:
    """Divides slices by their rows of a table, as RMSprop, Adagrad, Adadelta and Adafactor do.

    Stock asks in a `tf.cond` whether the table has zeros, because their rows become NaN where no slice is too. DTensor
    cannot split that. Here such a table makes all slices NaN.
    """
    of_table = isinstance(x1, tf.IndexedSlices) and not isinstance(x2, tf.IndexedSlices)
    if not of_table or not len(getattr(x2, "shape", ())):
        return stock(x1, x2)
    table = backend.convert_to_tensor(x2)
    quotients = stock(x1.values, tf.gather(table, x1.indices))
    least = tf.reduce_min(tf.abs(table))
    usable = tf.where(least > 0, tf.zeros_like(least), tf.fill([], tf.constant(float("nan"), least.dtype)))
    return tf.IndexedSlices(quotients + usable, x1.indices, x1.dense_shape)
