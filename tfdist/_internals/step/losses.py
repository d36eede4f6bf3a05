"""Losses inside a step are means over the rows of its part; see `contract.Step`.

Stock divides every mean by the number of replicas, and sums. That is wrong if the replicas have different numbers of
rows, of valid (unmasked) elements, or different sums of sample weights. Stock does not scale a scalar loss, a
`compute_loss` or a `train_step` of the user's own at all, which makes them too large by the number of replicas.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
from keras import ops
from keras.src.losses import loss as loss_module

from tfdist._internals.contract import Step, current_step, distribution_of
from tfdist._internals.patch import Patch, in_step
from tfdist.log import warn_once


def _unscaled(stock: Any) -> Any:
    """Returns a loss as it is in a step, and where it is called by hand and no replica is running."""

    @functools.wraps(stock)
    def unscaled(value: Any) -> Any:
        by_hand = (
            distribution_of(tf.distribute.get_strategy()) is not None
            and tf.distribute.in_cross_replica_context()
        )
        return value if by_hand or current_step() is not None else stock(value)

    return unscaled


def _denominator(reduction: str, values: Any, sample_weight: Any, mask: Any) -> Any | None:
    """Returns the divisor of stock's mean if it is not the number of rows, otherwise None."""
    if reduction == "mean_with_sample_weight" and (sample_weight is not None or mask is not None):
        merged = loss_module.apply_mask(sample_weight, mask, dtype=values.dtype, reduction=reduction)
        _, merged = loss_module.squeeze_or_expand_to_same_rank(values, ops.cast(merged, values.dtype))
        return ops.sum(merged)
    if mask is not None and reduction in ("mean", "sum_over_batch_size"):
        return ops.sum(ops.cast(mask, values.dtype))
    return None


def _warn_of_padding(step: Step, values: Any) -> None:
    if step.padded and len(values.shape) == 0:
        warn_once(
            "a loss gives one number for a whole batch, and so counts the rows that pad a smaller batch to static "
            "shapes. Let it give one value for each row, or drop the smaller batch: "
            "dataset.batch(size, drop_remainder=True)."
        )


def _without_padding(step: Step, values: Any, sample_weight: Any, mask: Any) -> tuple[Any, Any]:
    """Returns sample weights and mask, so that one of the two is 0 for padding."""
    if mask is not None:
        return sample_weight, step.without_padding(mask)
    weights = ops.ones(ops.shape(values)[:1], values.dtype) if sample_weight is None else sample_weight
    return step.without_padding(weights), mask


def _reduced(
    step: Step,
    stock: Any,
    values: Any,
    sample_weight: Any = None,
    mask: Any = None,
    reduction: Any = "sum_over_batch_size",
    dtype: Any = None,
) -> Any:
    values = ops.convert_to_tensor(values, dtype=dtype)
    if reduction in (None, "none") or len(values.shape) == 0:
        _warn_of_padding(step, values)
        return stock(values, sample_weight, mask, reduction, dtype)
    if sample_weight is not None:
        sample_weight = ops.convert_to_tensor(sample_weight, dtype=dtype)
    if mask is not None:
        mask = ops.convert_to_tensor(mask, dtype=dtype)
    if step.padded:
        sample_weight, mask = _without_padding(step, values, sample_weight, mask)
    loss = stock(values, sample_weight, mask, reduction, dtype)
    if reduction == "sum":
        return step.as_mean(loss)
    denominator = _denominator(reduction, values, sample_weight, mask)
    if denominator is not None:
        return step.of_global_mean(loss, denominator)
    if step.padded:
        rows, valid = (tf.cast(count, loss.dtype) for count in (ops.shape(values)[0], step.num_valid))
        return tf.math.divide_no_nan(loss * rows, valid)
    return loss


PATCHES = (
    Patch(
        name="step.losses",
        owner=loss_module,
        attribute="scale_loss_for_distribution",
        make=_unscaled,
        reason="a replica's mean is divided by the number of replicas, whatever its share of the rows; a loss called "
        "by hand in the scope is divided too",
        upstream="https://github.com/keras-team/keras/issues/19891 (mended for even batches only)",
    ),
    Patch(
        name="step.losses",
        owner=loss_module,
        attribute="unscale_loss_for_distribution",
        make=_unscaled,
        reason="the counterpart of scale_loss_for_distribution, for the reported loss",
        upstream="https://github.com/keras-team/keras/issues/19891",
    ),
    Patch(
        name="step.losses",
        owner=loss_module,
        attribute="reduce_weighted_values",
        make=in_step(_reduced),
        reason="masked and weighted losses divide by the replica's own count instead of the global one",
        upstream="no thread found",
    ),
)
