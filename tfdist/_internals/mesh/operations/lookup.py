"""Embeddings split by vocabulary are looked up where they are: each device finds its own ids, and a sum joins them.

DTensor has no rule for a gather from a table that is split over its rows. It puts the whole table together on every
device in every step, so that memory and traffic grow with the vocabulary instead of the batch. The method here is that
of Megatron-LM (Shoeybi et al., 2019, section 3).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.core import Variable
from tensorflow.experimental import dtensor

from tfdist._internals.mesh.step import MeshStep
from tfdist._internals.mesh.variable import MeshVariable


def take(step: MeshStep, stock: Any, x: Any, indices: Any, axis: int | None = None) -> Any:
    """Gathers rows. If the table is split by rows, each device looks up its own, and the results are summed."""
    layout = _layout_of(x) if axis == 0 and tf.is_tensor(indices) else None
    if layout is None or dtensor.UNSHARDED in layout.sharding_specs[:1]:
        return stock(x, indices, axis)
    return _look_up(tf.convert_to_tensor(x), indices, layout)


def _layout_of(x: Any) -> dtensor.Layout | None:
    value = x.value if isinstance(x, Variable) else x
    return value.layouts.computed if isinstance(value, MeshVariable) else None


def _look_up(table: tf.Tensor, indices: tf.Tensor, layout: dtensor.Layout) -> tf.Tensor:
    mesh, (axis, *of_row) = layout.mesh, layout.sharding_specs
    num_parts, num_rows = mesh.dim_size(axis), table.shape[0]
    rows_each = num_rows // num_parts
    begins = tf.reshape(
        tf.range(0, num_rows, rows_each, dtype=indices.dtype), [-1] + [1] * indices.shape.rank
    )
    begins = dtensor.relayout(begins, dtensor.Layout([axis] + [dtensor.UNSHARDED] * indices.shape.rank, mesh))

    @tf.custom_gradient
    def look_up(table: tf.Tensor) -> Any:
        parts = tf.reshape(table, [num_parts, rows_each, *table.shape[1:]])
        parts = dtensor.relayout(parts, dtensor.Layout([axis, dtensor.UNSHARDED, *of_row], mesh))
        ids = tf.where(indices < 0, indices + num_rows, indices)
        local = tf.expand_dims(ids, 0) - begins
        inside = tf.logical_and(local >= 0, local < rows_each)
        # An id that is in no part of the table keeps its place outside of it, so that the gather refuses it, as on one
        # device.
        elsewhere = tf.logical_and(tf.logical_not(inside), tf.expand_dims(ids < num_rows, 0))
        found = tf.gather(parts, tf.where(elsewhere, tf.zeros_like(local), local), axis=1, batch_dims=1)
        mask = tf.cast(inside, found.dtype)
        for _ in of_row:
            mask = tf.expand_dims(mask, -1)

        def gradient(upstream: tf.Tensor) -> tf.IndexedSlices:
            values = tf.reshape(upstream, [-1, *table.shape[1:]])
            return tf.IndexedSlices(values, tf.reshape(ids, [-1]), tf.constant(table.shape.as_list()))

        return tf.reduce_sum(found * mask, 0), gradient

    return look_up(table)
