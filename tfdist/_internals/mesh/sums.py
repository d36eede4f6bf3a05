"""Sums of known vectors over the devices of a mesh, which show a network or device that sums wrongly."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from tfdist._internals.mesh.variable import place


def sum_error(mesh: dtensor.Mesh, ramp: np.ndarray) -> float:
    """Returns the largest relative error of a sum over the devices; each adds `ramp` plus its own number."""
    sizes = [mesh.dim_size(axis) for axis in mesh.dim_names]
    numbers = np.arange(np.prod(sizes), dtype=ramp.dtype).reshape(*sizes, 1)
    vectors = place(numbers + ramp, dtensor.Layout([*mesh.dim_names, dtensor.UNSHARDED], mesh))
    summed = tf.function(lambda values: tf.reduce_sum(values, list(range(len(sizes)))), autograph=False)
    expected = ramp * numbers.size + numbers.sum()
    found = [piece.numpy() for piece in dtensor.unpack(summed(vectors))]
    return max(float(np.max(np.abs(value - expected) / (1 + np.abs(expected)))) for value in found)
