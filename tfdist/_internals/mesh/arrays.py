"""Functions of `keras.ops` that, on a mesh, are made of what DTensor has layout rules for.

Stock's fail with "op does not implement layout propagation": `flip` in random flips and `keras.metrics.AUC`, `diag` and
`scatter` in `keras.metrics.IoU` and its kin.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import core as backend_core
from keras.src.backend.tensorflow import numpy as backend_numpy

from tfdist._internals.mesh.layers import by_batch
from tfdist._internals.registry import Patch
from tfdist._internals.replica.step import on_mesh


def _flip(stock: Any) -> Any:
    def flip(x: Any, axis: Any = None) -> Any:
        if not on_mesh():
            return stock(x, axis)
        x = tf.convert_to_tensor(x)
        axes = list(
            range(x.shape.rank) if axis is None else axis if isinstance(axis, list | tuple) else [axis]
        )
        if x.shape.rank == 3 and axes == [1] and x.shape[1] is not None:
            # Sequences, whose gradient DTensor cannot bring back through a gather.
            steps = [by_batch(step) for step in tf.unstack(by_batch(x), axis=1)]
            return by_batch(tf.stack(steps[::-1], axis=1))
        for dimension in axes:
            x = tf.gather(x, tf.range(tf.shape(x)[dimension] - 1, -1, -1), axis=dimension)
        return x

    return flip


def _diag(stock: Any) -> Any:
    def diag(x: Any, k: int = 0) -> Any:
        x = tf.convert_to_tensor(x)
        if not on_mesh() or x.shape.rank != 2 or k != 0:
            return stock(x, k)
        rows, columns = x.shape
        return tf.gather(tf.reshape(x, [-1]), tf.range(min(rows, columns)) * (columns + 1))

    return diag


def _scatter(stock: Any) -> Any:
    def scatter(indices: Any, values: Any, shape: Any) -> Any:
        return stock(tf.cast(indices, tf.int32) if on_mesh() else indices, values, shape)

    return scatter


PATCHES = (
    Patch(
        name="mesh_ops",
        owner=backend_numpy,
        attribute="flip",
        make=_flip,
        reason="DTensor has no layout rule for tf.reverse",
        upstream="no thread found",
    ),
    Patch(
        name="mesh_ops",
        owner=backend_numpy,
        attribute="diag",
        make=_diag,
        reason="DTensor has no layout rule for tf.linalg.diag_part",
        upstream="no thread found",
    ),
    Patch(
        name="mesh_ops",
        owner=backend_core,
        attribute="scatter",
        make=_scatter,
        reason="DTensor makes the shape int32 whatever the type of the indices, and so builds an invalid operation",
        upstream="no thread found",
    ),
)
