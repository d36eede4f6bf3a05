"""Gradients are summed over the replicas before anything else is done with them.

Stock clips each replica's own gradient and sums afterwards, so that the bound acts on something that one device never
sees; and it sums inside the update, where a step of gradient accumulation cannot reach it. Here the sum stands before
the clipping, which stock calls on the gradient of an update and nowhere else: accumulated gradients are then summed
once for each update.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from tfdist._internals.registry import Patch
from tfdist._internals.replica.step import current_step


def _summed_first(stock: Any) -> Any:
    def _clip_gradients(self: Any, grads: Any) -> Any:
        step = current_step()
        if step is not None:
            grads = step.sum_gradients(grads)
        norm = getattr(self, "gradient_norm", None)  # attached by a callback that wants to see it
        if norm is not None and (step is not None or tf.distribute.get_strategy().num_replicas_in_sync == 1):
            norm.record(grads)
        return stock(self, grads)

    return _clip_gradients


def _summed_already(stock: Any) -> Any:
    def _all_reduce_sum_gradients(self: Any, grads_and_vars: Any) -> Any:
        return stock(self, grads_and_vars) if current_step() is None else grads_and_vars

    return _all_reduce_sum_gradients


PATCHES = (
    Patch(
        name="optimizers",
        owner=BaseOptimizer,
        attribute="_clip_gradients",
        make=_summed_first,
        reason="gradients are clipped on each replica, before they are summed",
        upstream="https://github.com/tensorflow/tensorflow/issues/33929 (tf.keras forbade it); none for Keras 3",
    ),
    Patch(
        name="optimizers",
        owner=TFOptimizer,
        attribute="_all_reduce_sum_gradients",
        make=_summed_already,
        reason="the counterpart: they are not summed a second time",
        upstream="https://github.com/keras-team/keras/issues/20582",
    ),
)
