"""The update of a table whose gradient has few rows: all rows as if the gradient were 0, and those few apart.

The gradient of an embedding is zero but for the rows that were looked up. As a dense tensor it would be written,
clipped and read as if it were as large as the table. An update that works on each element by itself can be computed for
these rows alone, from what they were before, and written over the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.func_graph import FuncGraph

from tfdist._internals.step.update_programs import ELEMENTWISE, replayed, run_update, traced


def with_summed_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """Returns slices in which each row is there once, with the sum of its slices."""
    indices, place = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(indices))
    return tf.IndexedSlices(values, indices, gradient.dense_shape)


def has_summed_rows(gradient: tf.IndexedSlices) -> bool:
    """Returns whether each row is there once, by how the slices were made."""
    operation = gradient.indices.op
    return bool(operation.type == "Unique" and gradient.indices is operation.outputs[0])


def update_rows_apart(
    optimizer: Any,
    update: Callable[..., None],
    graph: FuncGraph,
    variable: Any,
    gradient: tf.IndexedSlices,
    scalars: Sequence[tf.Tensor],
    shared: bool = False,
) -> bool:
    """Updates a table, given the gradient of a few of its rows; does nothing if the update is not by element.

    Args:
        optimizer: Holds the programs.
        update: Updates a variable, given that, its dense gradient, and the scalars.
        graph: Of the update, given a dense gradient and the scalars; XLA can compile it.
        variable: A `tf.Variable` of shape (rows, …) on the device of this place.
        gradient: Slices with each row once.
        scalars: The learning rate, and what else the update is given.
        shared: Whether the table has its memory in common with others; see `run_update`.

    Returns:
        Whether it was updated.
    """
    if not _is_by_element(graph, variable.shape):
        return False

    def rows_of(outer: Any) -> Any:
        if _shape_of(outer) != variable.shape:
            return outer
        table = tf.raw_ops.ReadVariableOp(resource=outer, dtype=_dtype_of(outer))
        return tf.gather(table, gradient.indices)

    captured = [rows_of(outer) for outer, _ in graph.captures]
    found = replayed(graph, [gradient.values, *scalars], captured)

    def as_if_zero(*inputs: tf.Tensor) -> None:
        update(variable, tf.zeros(variable.shape, gradient.dtype), *inputs)

    with tf.control_dependencies(list(found.values())):
        run_update(optimizer, as_if_zero, traced(as_if_zero, scalars), variable, scalars, shared)
        for table, rows in found.items():
            handle = table.deref()
            tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=gradient.indices, updates=rows)
            # After a scatter every read of the table would be a copy of it.
            tf.raw_ops.DisableCopyOnRead(resource=handle)
    return True


def _shape_of(tensor: Any) -> tf.TensorShape:
    """Returns the shape of a tensor, or of the variable that a handle leads to."""
    if tensor.dtype != tf.resource:
        return tensor.shape
    data = tensor._handle_data
    return tf.TensorShape(data.shape_and_type[0].shape)


def _dtype_of(handle: Any) -> Any:
    return tf.as_dtype(handle._handle_data.shape_and_type[0].dtype)


def _is_by_element(graph: FuncGraph, shape: tf.TensorShape) -> bool:
    """Returns whether every operation works on elements, and every tensor is a scalar or has the variable's shape."""
    operations = graph.get_operations()
    outer = [_shape_of(tensor) for tensor, _ in graph.captures]
    inner = [tensor.shape for one in operations for tensor in one.outputs if tensor.dtype != tf.resource]
    return all(one.type in ELEMENTWISE for one in operations) and all(
        found.rank == 0 or found == shape for found in (*outer, *inner)
    )
