"""The rows of all replicas, and sums over them, on every replica; gradients go back to the replica that has the row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfdist._internals.contract import Step
from tfdist.errors import UnsupportedError

# Collectives do not take these; what they hold is exact in the other type.
THROUGH = {
    tf.bool: tf.int32,
    tf.int8: tf.int32,
    tf.int16: tf.int32,
    tf.uint8: tf.int32,
    tf.uint16: tf.int32,
    tf.uint32: tf.int64,
    tf.bfloat16: tf.float32,
}
_SUMMED = (tf.float16, tf.float32, tf.float64, tf.int32, tf.int64)


class RowPosition(NamedTuple):
    """Where a replica's rows stand in the global batch: scalar int64 tensors.

    `size` counts the rows that the replica computes on, padding included.
    """

    first: Any
    size: Any


class StepOfRows(Step):
    """A step that knows where its rows stand in the global batch, and sums over the replicas.

    Attributes:
        rows: Where they stand.
    """

    rows: RowPosition

    def mark_same(self, values: Sequence[Any]) -> None:
        """Notes that tensors have the same value on all replicas."""


def gather_rows(step: StepOfRows, values: Sequence[Any]) -> list[tf.Tensor]:
    """Returns tensors of shape `(rows, …)` with the rows of all replicas, in global order and without padding.

    Every replica puts its rows in their place among zeros, and all are summed. That is one collective for all values of
    a dtype, whatever number of rows each replica has.
    """
    values = [tf.convert_to_tensor(value) for value in values]
    places = [_in_place(step, value) for value in values]
    floats = [place for place in places if place.dtype.is_floating]
    others = iter(step.sum([place for place in places if not place.dtype.is_floating]))
    summed = iter(sum_with_gradient(step, floats))
    gathered = [next(summed if place.dtype.is_floating else others) for place in places]
    return [tf.cast(total, value.dtype) for total, value in zip(gathered, values, strict=True)]


def own_rows(step: StepOfRows, value: tf.Tensor) -> tf.Tensor:
    """Returns, of a tensor with the rows of all replicas, those of this one; its padding gets zeros."""
    own = value[step.rows.first : step.rows.first + step.num_valid]
    missing = step.rows.size - step.num_valid
    return tf.ensure_shape(_padded(own, 0, missing), [None, *value.shape[1:]])


def over_rows(step: StepOfRows, values: tf.Tensor, *, mean: bool) -> tf.Tensor:
    """Returns the sum or the mean over the rows of all replicas, of shape `values.shape[1:]`, on every replica."""
    values = tf.convert_to_tensor(values)
    _check_rows(step, values)
    through = _through(values)
    own = tf.cast(values, through)[: step.num_valid]
    if mean:  # a sum over many rows may be more than float16 can hold
        own /= tf.cast(step.num_global, through)
    total = tf.reduce_sum(own, 0)
    if not through.is_floating:
        return tf.cast(step.sum([total])[0], values.dtype)
    return tf.cast(sum_with_gradient(step, [total])[0], values.dtype)


def sum_with_gradient(step: StepOfRows, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the sums over all replicas of floating-point tensors.

    A replica may use the sum otherwise than the others do. So the gradient that goes back to each replica's value is
    what all replicas together have of the sum: as a share of the loss if the loss is one already, and otherwise as the
    mean whose share it is.
    """
    if not values:
        return []

    @tf.custom_gradient
    def summed(*values: tf.Tensor) -> Any:
        def gradient(*upstream: Any) -> list[tf.Tensor]:
            totals = step.sum(step.shares_of([tf.convert_to_tensor(value) for value in upstream]))
            return totals if step.gradients_shared else [step.as_mean(total) for total in totals]

        return step.sum(values), gradient

    totals = list(summed(*values))
    step.mark_same(totals)
    return totals


def _in_place(step: StepOfRows, value: tf.Tensor) -> tf.Tensor:
    """Returns this replica's rows in their place in the global batch, among zeros."""
    _check_rows(step, value)
    own = tf.cast(value, _through(value))[: step.num_valid]
    whole = _padded(own, step.rows.first, step.num_global - step.rows.first - step.num_valid)
    return tf.ensure_shape(whole, [None, *value.shape[1:]])


def _padded(value: tf.Tensor, before: Any, after: Any) -> tf.Tensor:
    rest = tf.zeros([value.shape.rank - 1, 2], tf.int64)
    return tf.pad(
        value, tf.concat([[tf.stack([tf.cast(before, tf.int64), tf.cast(after, tf.int64)])], rest], 0)
    )


def _through(value: tf.Tensor) -> tf.DType:
    """Returns the type in which collectives take a tensor."""
    through = THROUGH.get(value.dtype, value.dtype)
    if through not in _SUMMED:
        raise UnsupportedError(
            f"rows of all replicas are gathered as numbers, and a tensor of dtype {value.dtype.name} was given. "
            "Allowed are real numbers and Booleans. Give numbers, such as ids in place of strings."
        )
    return through


def _check_rows(step: StepOfRows, value: tf.Tensor) -> None:
    """Refuses a tensor that has another number of rows than the replica's part of the batch."""
    if value.shape.rank is None or value.shape.rank == 0:
        raise UnsupportedError(
            f"rows of all replicas are those of a tensor with one row for each row of the batch, and a tensor of shape "
            f"{value.shape} was given. Give the values by row, before they are reduced."
        )
    tf.debugging.assert_equal(
        tf.shape(value, out_type=tf.int64)[0],
        step.rows.size,
        "A tensor was to be gathered or summed over the rows of all replicas, and has another number of rows than the "
        "part of the batch on this replica. Give one row for each row of the batch: gather two views of a batch one by "
        "one, and join them afterwards.",
    )
