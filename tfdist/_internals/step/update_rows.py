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

from tfdist._internals.step.update_programs import ELEMENTWISE, run_program, traced

_ASSIGNS = {
    "AssignVariableOp": lambda old, value: value,
    "AssignAddVariableOp": lambda old, value: old + value,
    "AssignSubVariableOp": lambda old, value: old - value,
}


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
) -> bool:
    """Updates a table, given the gradient of a few of its rows; does nothing if the update is not by element.

    Args:
        optimizer: Holds the programs.
        update: Updates a variable, given that, its dense gradient, and the scalars.
        variable: A `tf.Variable` of shape (rows, …) on the device of this place.
        gradient: Slices with each row once.
        scalars: The learning rate, and what else the update is given.

    Returns:
        Whether it was updated.
    """
    dense = tf.TensorSpec(variable.shape, gradient.dtype)
    specs = [dense, *(tf.TensorSpec(one.shape, one.dtype) for one in scalars)]
    graph = traced(lambda *inputs: update(variable, *inputs), specs)
    if not _is_by_element(graph, variable.shape):
        return False
    tables = {inner.name: outer for outer, inner in graph.captures if _shape_of(outer) == variable.shape}
    rows = {
        name: tf.raw_ops.ResourceGather(resource=handle, indices=gradient.indices, dtype=_dtype_of(handle))
        for name, handle in tables.items()
    }
    found = _run(graph, [gradient.values, *scalars], rows)

    def as_if_zero(*inputs: tf.Tensor) -> None:
        update(variable, tf.zeros(variable.shape, gradient.dtype), *inputs)

    with tf.control_dependencies(list(found.values())):
        if not run_program(optimizer, as_if_zero, scalars):
            return False
        for name, values in found.items():
            tf.raw_ops.ResourceScatterUpdate(resource=tables[name], indices=gradient.indices, updates=values)
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


def _run(graph: FuncGraph, inputs: list[tf.Tensor], rows: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Runs the operations of a graph, in their order, on rows of the variables; returns the rows that it assigns.

    Args:
        graph: Of an update by element.
        inputs: In place of the graph's own.
        rows: For the name of each handle of a table, its rows as they were.
    """
    state, assigned = dict(rows), dict[str, tf.Tensor]()
    values: dict[str, Any] = {inner.name: outer for outer, inner in graph.captures}
    values |= {inner.name: given for inner, given in zip(graph.inputs, inputs, strict=False)}
    for operation in graph.get_operations():
        names = [tensor.name for tensor in operation.inputs]
        if operation.type == "Placeholder" or operation.type == "NoOp":
            continue
        if names and names[0] in state and operation.type in (*_ASSIGNS, "ReadVariableOp"):
            if operation.type == "ReadVariableOp":
                values[operation.outputs[0].name] = state[names[0]]
                continue
            state[names[0]] = _ASSIGNS[operation.type](state[names[0]], values[names[1]])
            assigned[names[0]] = state[names[0]]
            continue
        copy = tf.compat.v1.get_default_graph().create_op(
            operation.type,
            [values[name] for name in names],
            [tensor.dtype for tensor in operation.outputs],
            attrs={key: value for key, value in operation.node_def.attr.items() if key != "_output_shapes"},
        )
        for mine, theirs in zip(operation.outputs, copy.outputs, strict=True):
            values[mine.name] = theirs
    return assigned
