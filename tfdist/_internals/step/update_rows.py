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

from tfdist._internals.contract import Division
from tfdist._internals.step.update_programs import (
    ELEMENTWISE,
    assign_all,
    dtype_of,
    new_values,
    replayed,
    run_program,
    traced,
    value_of,
    written,
)


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
    variable: Any,
    gradient: tf.IndexedSlices,
    scalars: Sequence[tf.Tensor],
    division: Division | None = None,
) -> bool:
    """Updates a table, given the gradient of a few of its rows; does nothing if the update is not by element.

    Args:
        optimizer: Holds the programs.
        update: Updates a variable, given that, its dense gradient, and the scalars.
        variable: A `tf.Variable` of shape (rows, …) on the device of this place.
        gradient: Slices with each row once.
        scalars: The learning rate, and what else the update is given.
        division: Who makes the update; None if every replica does.

    Returns:
        Whether it was updated, here or on the replica whose part it is.
    """
    dense = tf.TensorSpec(variable.shape, gradient.dtype)
    specs = [dense, *(tf.TensorSpec(one.shape, one.dtype) for one in scalars)]
    graph = traced(lambda *inputs: update(variable, *inputs), specs)
    if not _is_by_element(graph, variable.shape):
        return False
    handles = written(graph)
    if division is not None and not division.is_own(handles):
        return True

    def rows_of(handle: Any) -> tf.Tensor:
        if handle.dtype != tf.resource or _shape_of(handle) != variable.shape:
            return handle
        if division is not None:
            return tf.gather(value_of(handle), gradient.indices)
        # Nothing holds the table itself, so that it can be written in place.
        return tf.raw_ops.ResourceGather(resource=handle, indices=gradient.indices, dtype=dtype_of(handle))

    def as_if_zero(*inputs: tf.Tensor) -> None:
        update(variable, tf.zeros(variable.shape, gradient.dtype), *inputs)

    found = replayed(graph, [gradient.values, *scalars], [rows_of(outer) for outer, _ in graph.captures])
    if division is not None:
        whole = new_values(optimizer, traced(as_if_zero, specs[1:]), scalars)
        places = tf.expand_dims(gradient.indices, 1)
        both = zip(whole, found, strict=True)
        assign_all(handles, [tf.tensor_scatter_nd_update(value, places, rows) for value, rows in both])
        return True
    with tf.control_dependencies(found):
        if not run_program(optimizer, as_if_zero, scalars):
            return False
        for handle, rows in zip(handles, found, strict=True):
            tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=gradient.indices, updates=rows)
            # Otherwise every read of the table would copy it from now on.
            tf.raw_ops.DisableCopyOnRead(resource=handle)
    return True


def _shape_of(tensor: Any) -> tf.TensorShape:
    """Returns the shape of a tensor, or of the variable that a handle leads to."""
    if tensor.dtype != tf.resource:
        return tensor.shape
    data = tensor._handle_data
    return tf.TensorShape(data.shape_and_type[0].shape)


def _is_by_element(graph: FuncGraph, shape: tf.TensorShape) -> bool:
    """Returns whether every operation works on elements, and every tensor is a scalar or has the variable's shape."""
    operations = graph.get_operations()
    outer = [_shape_of(tensor) for tensor, _ in graph.captures]
    inner = [tensor.shape for one in operations for tensor in one.outputs if tensor.dtype != tf.resource]
    return all(one.type in ELEMENTWISE for one in operations) and all(
        found.rank == 0 or found == shape for found in (*outer, *inner)
    )
