"""Loss scaling looks at the gradients of all parts, so that all replicas skip a step or none does.

Under MirroredStrategy stock looks at the gradient of replica 0 alone. Under MultiWorkerMirroredStrategy every worker
decides for itself, and one that skips leaves the others waiting in a collective.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer

from tfdist._internals.contract import Step, current_step, distribution_of
from tfdist._internals.patch import Patch, in_step


def _as_on_one_device(stock: Any) -> Any:
    @functools.wraps(stock)
    def _tf_apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        # Outside of a step, gradients that a user applies by hand are those of the whole batch.
        by_hand = distribution_of(tf.distribute.get_strategy()) and tf.distribute.in_cross_replica_context()
        if current_step() is not None or by_hand:
            return self._common_apply(grads, trainable_variables)
        return stock(self, grads, trainable_variables)

    return _tf_apply


def _agreed(step: Step, stock: Any, optimizer: Any, grads: Any) -> Any:
    finite = stock(optimizer, grads)
    if step.gradients_summed:
        return finite
    # With accumulation the gradients are summed only at the update. Until then the parts must agree on each batch.
    failures = step.sum([tf.cast(tf.logical_not(finite) & step.has_rows, tf.float32)])[0]
    return tf.equal(failures, 0.0)


PATCHES = (
    Patch(
        name="step.loss_scaling",
        owner=LossScaleOptimizer,
        attribute="_tf_apply",
        make=_as_on_one_device,
        reason="the decision is taken from one replica, by a merge_call that cannot stand in a condition",
        upstream="https://github.com/keras-team/keras/issues/18666",
    ),
    Patch(
        name="step.loss_scaling",
        owner=LossScaleOptimizer,
        attribute="check_finite",
        make=in_step(_agreed),
        reason="with gradient accumulation each replica would decide by its own gradient",
        upstream="https://github.com/keras-team/keras/issues/18666",
    ),
)
