"""A scalar given to `keras.metrics.Mean` inside a replica counts by the replica's share of the global batch.

On one device `Mean.update_state(loss)` adds one value a step. Each replica adding one makes the epoch's value a mean
of means, with an empty replica counted in full. Metrics given to `compile` do not count padding to static shapes.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops
from keras.src.metrics import reduction_metrics
from keras.src.trainers.compile_utils import MetricsList

from tfdist._internals.registry import Patch
from tfdist._internals.replica.step import current_step


def _weighted(stock: Any) -> Any:
    def update_state(self: Any, values: Any, sample_weight: Any = None) -> Any:
        step = current_step()
        # The losses of several outputs are weighted by the static number of rows, and one device knows none.
        counts_steps = sample_weight is None or getattr(self, "counts_steps", False)
        if step is not None and counts_steps and len(ops.shape(values)) == 0:
            sample_weight = step.weight
        return stock(self, values, sample_weight)

    return update_state


def _without_padding(stock: Any) -> Any:
    def update_state(self: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        step = current_step()
        if step is not None and step.static:
            if sample_weight is None:
                mask = getattr(y_pred, "_keras_mask", None)
                sample_weight = tf.ones(tf.shape(y_pred)[:1]) if mask is None else mask
            sample_weight = step.without_padding(sample_weight)
        return stock(self, y_true, y_pred, sample_weight)

    return update_state


PATCHES = (
    Patch(
        name="metrics",
        owner=reduction_metrics.Mean,
        attribute="update_state",
        make=_weighted,
        reason="a scalar counts as one row on each replica, whatever the replica's share of the batch",
        upstream="https://github.com/keras-team/keras/issues/21054",
    ),
    Patch(
        name="metrics",
        owner=MetricsList,
        attribute="update_state",
        make=_without_padding,
        reason="padding to static shapes would be counted",
        upstream="no thread found",
    ),
)
