"""A scalar given to `keras.metrics.Mean` inside a step counts by the part's share of the global batch.

On one device `Mean.update_state(loss)` adds one value for each step. If each replica added one, the value of the epoch
would be a mean of means, and an empty replica would count in full. Metrics given to `compile` do not count the padding
to static shapes.
"""

from __future__ import annotations

import weakref
from typing import Any

import tensorflow as tf
from keras import ops
from keras.src.metrics import reduction_metrics
from keras.src.trainers.compile_utils import MetricsList

from tfdist._internals.contract import Step
from tfdist._internals.patch import Patch, in_step

# The metrics of the losses of several outputs. Keras weights these by the number of rows if it is static, and it is
# not static on one device.
_counted_by_step: weakref.WeakSet[Any] = weakref.WeakSet()


def count_by_step(metric: Any) -> None:
    """Makes a scalar given to `metric` count as one for each step, whatever weight comes with it."""
    _counted_by_step.add(metric)


def _shared(step: Step, stock: Any, metric: Any, values: Any, sample_weight: Any = None) -> Any:
    counts_steps = sample_weight is None or metric in _counted_by_step
    if counts_steps and len(ops.shape(values)) == 0:
        sample_weight = step.weight
    return stock(metric, values, sample_weight)


def _without_padding(
    step: Step, stock: Any, metrics: Any, y_true: Any, y_pred: Any, sample_weight: Any = None
) -> Any:
    if step.padded:
        if sample_weight is None:
            mask = getattr(y_pred, "_keras_mask", None)
            sample_weight = tf.ones(tf.shape(y_pred)[:1]) if mask is None else mask
        sample_weight = step.without_padding(sample_weight)
    return stock(metrics, y_true, y_pred, sample_weight)


PATCHES = (
    Patch(
        name="step.metrics",
        owner=reduction_metrics.Mean,
        attribute="update_state",
        make=in_step(_shared),
        reason="a scalar counts as one row on each replica, whatever the replica's share of the batch",
        upstream="https://github.com/keras-team/keras/issues/21054",
    ),
    Patch(
        name="step.metrics",
        owner=MetricsList,
        attribute="update_state",
        make=in_step(_without_padding),
        reason="padding to static shapes would be counted",
        upstream="no thread found",
    ),
)
