"""Loss scaling decides on the summed gradient, so that all replicas skip or none does.

Stock looks at replica 0's own gradient under MirroredStrategy, and lets every worker decide for itself under
MultiWorkerMirroredStrategy, where one that skips leaves the others waiting in a collective.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer

from tfdist._internals.registry import Patch
from tfdist._internals.replica.step import current_step


def _on_the_sum(stock: Any) -> Any:
    def _tf_apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        step = current_step()
        if step is None:
            return stock(self, grads, trainable_variables)
        if self.inner_optimizer.gradient_accumulation_steps:
            # The sum waits for the update; until then the replicas must agree on each batch by itself.
            return self._common_apply(grads, trainable_variables)
        grads = step.sum_gradients(grads)
        with step.reduced_gradients():
            return self._common_apply(grads, trainable_variables)

    return _tf_apply


def _agreed(stock: Any) -> Any:
    def check_finite(self: Any, grads: Any) -> Any:
        finite, step = stock(self, grads), current_step()
        if step is None or step.gradients_reduced:
            return finite
        failures = step.sum([tf.cast(tf.logical_not(finite) & step.has_rows, tf.float32)])[0]
        return tf.equal(failures, 0.0)

    return check_finite


PATCHES = (
    Patch(
        name="loss_scaling",
        owner=LossScaleOptimizer,
        attribute="_tf_apply",
        make=_on_the_sum,
        reason="finiteness is checked before the gradients are summed: NaN weights, or workers that wait for ever",
        upstream="https://github.com/keras-team/keras/issues/18666",
    ),
    Patch(
        name="loss_scaling",
        owner=LossScaleOptimizer,
        attribute="check_finite",
        make=_agreed,
        reason="with gradient accumulation each replica would decide by its own gradient",
        upstream="https://github.com/keras-team/keras/issues/18666",
    ),
)
