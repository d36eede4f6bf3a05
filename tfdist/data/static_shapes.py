"""Batches of one static size, for devices that compile a program for each shape."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfdist.errors import DataError


def pad_batches(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Returns `dataset` with every batch filled up to `batch_size` rows; the rows that fill it have sample weight 0.

    Elements `(x, y)` and `(x, y, sample_weight)` become `(x, y, sample_weight)` with a static batch size. If there were
    no weights, they are ones of shape (batch,). Elements `x` and `(x,)` are filled too; after `predict`, drop the rows
    beyond the count of examples. The rows that fill a batch repeat rows of it: zeros can be out of the range that a
    model is made for, and 0 times NaN is NaN. A batch without rows is filled with zeros.

    Args:
        dataset: Batches of dense tensors, none with more than `batch_size` rows. The cardinality is kept.
        batch_size: Rows of every batch of the result.

    Raises:
        DataError: If a component is ragged or sparse, and so has no static shape.
    """
    for spec in tf.nest.flatten(dataset.element_spec):
        if not isinstance(spec, tf.TensorSpec):
            raise DataError(
                f"{spec} cannot be padded to a static shape. Give dense tensors, made with to_tensor()."
            )

    def pad(*element: Any) -> Any:
        rows = tf.shape(tf.nest.flatten(element)[0])[0]
        check = tf.debugging.assert_less_equal(rows, batch_size, "a batch has more rows than batch_size")
        with tf.control_dependencies([check]):
            real = tf.range(batch_size) < rows
            padded = tf.nest.map_structure(lambda tensor: _fill(tensor, rows, batch_size), element)
        if len(padded) == 1:
            return padded if isinstance(dataset.element_spec, tuple) else padded[0]
        x, y, weights = padded if len(padded) == 3 else (*padded, tf.ones([batch_size]))
        return x, y, tf.nest.map_structure(lambda weight: _silence(weight, real), weights)

    return dataset.map(pad, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _fill(tensor: tf.Tensor, rows: tf.Tensor, batch_size: int) -> tf.Tensor:
    """Repeats the `rows` rows of `tensor`, or one row of zeros if it has none, up to `batch_size` rows."""
    spare = tf.concat([[tf.cast(rows == 0, tf.int32)], tf.shape(tensor)[1:]], axis=0)
    tensor_or_zeros = tf.concat([tensor, tf.zeros(spare, tensor.dtype)], axis=0)
    filled = tf.gather(tensor_or_zeros, tf.range(batch_size) % tf.maximum(rows, 1))
    return tf.ensure_shape(filled, [batch_size, *tensor.shape[1:]])


def _silence(weight: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
    mask = tf.reshape(real, [-1] + [1] * (weight.shape.rank - 1))
    return tf.where(mask, weight, tf.zeros_like(weight))
