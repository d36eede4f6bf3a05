"""The norm of the gradient that the optimizer applies."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist._internals.contract import METER_NAME, current_step
from tfdist._internals.step.optimizers import observe_gradients


class GradientNorm:
    """Keeps the global norm of the last gradient, before clipping and after the sum over all replicas.

    A callback attaches one to the optimizer by `GradientNorm.of(optimizer)`. The update of an optimizer without one is
    unchanged.
    """

    def __init__(self) -> None:
        with tf.init_scope():  # placed like the model's variables, so that XLA can compile the assignment
            self._norm = tf.Variable(math.nan, dtype=tf.float32, trainable=False, name=METER_NAME)

    @classmethod
    def of(cls, optimizer: Any) -> GradientNorm:
        """Returns the meter of the optimizer, or of the one in a `LossScaleOptimizer`; makes it if there is none."""
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if optimizer not in _norms:
            _norms[optimizer] = cls()
            observe_gradients(optimizer, _norms[optimizer].record)
        return _norms[optimizer]

    def record(self, gradients: Sequence[Any]) -> None:
        """Keeps the norm of the gradients of an update; the optimizer calls this, in a replica or outside.

        Under a stock strategy of several replicas nothing is kept: it sums the gradients later, so that the norm would
        be wrong.

        Args:
            gradients: Tensors or IndexedSlices; None for a variable without a gradient.
        """
        replica = tf.distribute.get_replica_context()
        if current_step() is None and tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return
        if replica is None or tf.get_static_value(replica.replica_id_in_sync_group) == 0:  # the same on all
            dense = [getattr(gradient, "values", gradient) for gradient in gradients if gradient is not None]
            self._norm.assign(tf.linalg.global_norm([tf.cast(gradient, tf.float32) for gradient in dense]))

    def read(self) -> float | None:
        """Returns the last norm, None if there is none. Waits for the step that is running."""
        norm = float(keras.ops.convert_to_numpy(self._norm))
        return None if math.isnan(norm) else norm


_norms: weakref.WeakKeyDictionary[Any, GradientNorm] = weakref.WeakKeyDictionary()
