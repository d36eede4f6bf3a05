"""Makes sure, before anything is trained, that DTensor computes an optimizer's update right in this process.

By default a compiler pass of DTensor combines all-reduces that stand apart in the program, and moves reads of variables
over the assignments between them. Momentum, Adam, AdamW, RMSprop and Adagrad then train wrong without an error (no
upstream thread found). An environment variable switches the pass off, but only if no DTensor function was compiled
before. So the check looks at the result and not at the variable.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
from tensorflow.experimental import dtensor

from tfdist._internals.mesh.variable import MeshVariable, VariableLayouts, place
from tfdist.errors import ClusterError


@functools.cache
def check_dtensor(mesh: dtensor.Mesh) -> None:
    """Trains a few weights with momentum on the mesh, and compares them with what numpy gives.

    Raises:
        ClusterError: The update is wrong.
    """
    axis = mesh.dim_names[0]
    inputs = np.arange(4 * mesh.dim_size(axis), dtype=np.float32).reshape(-1, 2) / 10
    start = np.asarray([[1.0], [-2.0]], np.float32)
    weights, bias, momentum = (
        MeshVariable.create(value, VariableLayouts.all_as(dtensor.Layout.replicated(mesh, value.ndim)))
        for value in (start, np.zeros([1], np.float32), np.zeros_like(start))
    )

    @tf.function(autograph=False)
    def step(batch: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch([weights, bias])
            loss = tf.reduce_mean(tf.square(tf.matmul(batch, weights) + bias))
        gradient, bias_gradient = tape.gradient(loss, [weights, bias])
        momentum.assign(0.9 * momentum - 0.1 * gradient)
        weights.assign_add(momentum)  # this read of what was just assigned is the one that goes wrong
        bias.assign_sub(0.1 * bias_gradient)
        return loss

    placed = place(inputs, dtensor.Layout.batch_sharded(mesh, axis, 2))
    with dtensor.default_mesh(mesh):
        for _ in range(3):
            step(placed)
    expected, b, m = start.astype(np.float64), 0.0, np.zeros(start.shape)
    for _ in range(3):
        error = 2 * (inputs @ expected + b) / len(inputs)
        m = 0.9 * m - 0.1 * inputs.T @ error
        expected, b = expected + m, b - 0.1 * error.sum()
    if not np.allclose(weights.numpy(), expected, rtol=1e-4, atol=1e-4):
        raise ClusterError(
            "DTensor computes wrong optimizer updates in this process: the pass that combines all-reduces is on, since "
            "a DTensor function was compiled before the strategy was made. Call tfdist.create_strategy before any "
            "other use of DTensor, or set DTENSOR_ENABLE_COMBINE_ALL_REDUCES_OPTIMIZATION=0 for the process."
        )
