"""Functions of `keras.ops` made of what DTensor has layout rules for.

Stock's fail with "op does not implement layout propagation": `flip` in random flips and `keras.metrics.AUC`, `diag` and
`scatter` in `keras.metrics.IoU` and its kin.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfdist._internals.mesh.step import MeshStep


def flip(step: MeshStep, stock: Any, x: Any, axis: Any = None) -> Any:
    """Reverses `x` by gathers, or, for sequences, by unstacking them."""
    x = tf.convert_to_tensor(x)
    axes = list(range(x.shape.rank) if axis is None else axis if isinstance(axis, list | tuple) else [axis])
    if x.shape.rank == 3 and axes == [1] and x.shape[1] is not None:
        # Sequences, whose gradient DTensor cannot bring back through a gather.
        steps = [step.by_batch(time_step) for time_step in tf.unstack(step.by_batch(x), axis=1)]
        return step.by_batch(tf.stack(steps[::-1], axis=1))
    for dimension in axes:
        x = tf.gather(x, tf.range(tf.shape(x)[dimension] - 1, -1, -1), axis=dimension)
    return x


def diag(step: MeshStep, stock: Any, x: Any, k: int = 0) -> Any:
    """Returns the diagonal of a matrix by a gather."""
    x = tf.convert_to_tensor(x)
    if x.shape.rank != 2 or k != 0:
        return stock(x, k)
    rows, columns = x.shape
    return tf.gather(tf.reshape(x, [-1]), tf.range(min(rows, columns)) * (columns + 1))


def scatter(step: MeshStep, stock: Any, indices: Any, values: Any, shape: Any) -> Any:
    """Scatters by int32 indices: DTensor makes the shape int32 whatever their type, which is invalid otherwise."""
    return stock(tf.cast(indices, tf.int32), values, shape)
