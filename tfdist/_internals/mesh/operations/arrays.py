"""Functions of `keras.ops` that are made of operations for which DTensor has layout rules.

The stock functions fail with "op does not implement layout propagation": `flip`, which random flips and
`keras.metrics.AUC` call, and `diag` and `scatter`, which `keras.metrics.IoU` and its kin call.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfdist._internals.mesh.step import MeshStep


def time_steps(step: MeshStep, x: Any) -> list[Any]:
    """Returns the time steps of a batch of sequences, each laid out by an operation of its own; see `programs`."""
    return [step.by_batch(one) for one in tf.unstack(step.by_batch(x), axis=1)]


def sequences(step: MeshStep, steps: list[Any]) -> Any:
    """Joins time steps to a batch of sequences, so that the gradient of each gets its layout by itself too."""
    return step.by_batch(tf.stack([step.by_batch(one) for one in steps], axis=1))


def flip(step: MeshStep, stock: Any, x: Any, axis: Any = None) -> Any:
    """Reverses `x` by gathers, or, if it is a batch of sequences, by unstacking their time steps."""
    x = tf.convert_to_tensor(x)
    axes = list(range(x.shape.rank) if axis is None else axis if isinstance(axis, list | tuple) else [axis])
    if x.shape.rank == 3 and axes == [1] and x.shape[1] is not None:
        # DTensor cannot take the gradient of sequences through a gather.
        return sequences(step, time_steps(step, x)[::-1])
    for dimension in axes:
        x = tf.gather(x, tf.range(tf.shape(x)[dimension] - 1, -1, -1), axis=dimension)
    return x


def concat(step: MeshStep, stock: Any, values: Any, axis: Any, name: str = "concat") -> Any:
    """Joins tensors that are whole along `axis`, `tf.concat` as Keras and models call it.

    A product with a kernel that is split by its rows asks for an input that is split along the joined axis. DTensor
    then splits each part and joins the pieces. That puts the columns in another order, without an error.
    """
    rank = (
        getattr(getattr(values[0], "shape", None), "rank", None) if isinstance(values, list | tuple) else None
    )
    if rank is None or rank < 2 or not isinstance(axis, int):  # a shape or the like
        return stock(values, axis, name)
    place = step.whole if axis % rank == 0 else step.by_batch
    return place(stock([place(value) for value in values], axis, name))


def diag(step: MeshStep, stock: Any, x: Any, k: int = 0) -> Any:
    """Returns the diagonal of a matrix by a gather."""
    x = tf.convert_to_tensor(x)
    if x.shape.rank != 2 or k != 0:
        return stock(x, k)
    rows, columns = x.shape
    return tf.gather(tf.reshape(x, [-1]), tf.range(min(rows, columns)) * (columns + 1))


def scatter(step: MeshStep, stock: Any, indices: Any, values: Any, shape: Any) -> Any:
    """Scatters by int32 indices. DTensor always makes the shape int32, and the indices must have the same dtype."""
    return stock(tf.cast(indices, tf.int32), values, shape)


def digitize(step: MeshStep, stock: Any, x: Any, bins: Any) -> Any:
    """Counts the bounds that are not above each value."""
    bounds = tf.convert_to_tensor(bins)
    values = tf.cast(tf.convert_to_tensor(x), bounds.dtype)
    return tf.reduce_sum(tf.cast(tf.expand_dims(values, -1) >= bounds, tf.int32), axis=-1)
