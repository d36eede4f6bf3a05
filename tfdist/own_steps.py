"""Words for those who write their own loss or `train_step`; the same script is right on one device, and in plain Keras.

In a step each replica has some rows of the global batch. What a loss is a mean over them, tfdist makes it the mean over
all rows, and sums the gradients when the optimizer is given them. These words are for all else: a value that is no mean
over rows, and gradients that are used before the optimizer has them. Call them in every replica alike, that is, not in
a condition that only some replicas enter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import keras
import tensorflow as tf

from tfdist._internals.contract import Step, current_step
from tfdist._internals.step import whole_batch
from tfdist.errors import UnsupportedError

_Loss = TypeVar("_Loss")


def whole_batch_loss(loss: _Loss) -> _Loss:
    """Says that a loss is no mean over rows, so that it must be computed on the rows of all replicas.

    Every replica then gathers the labels, the predictions, the sample weights and the mask of all rows of the global
    batch, computes the loss on them, and takes the gradient of its own rows. Keras's Dice, Tversky and Circle need no
    mark, and a plain mean should have none, since it costs no gathering.

    ```python
    @tfdist.whole_batch_loss
    def total_error(y_true, y_pred):
        return tf.reduce_sum(tf.square(y_true - y_pred))

    model.compile("adam", loss=total_error)
    ```

    Args:
        loss: A function of `(y_true, y_pred)`, a subclass of `keras.losses.Loss`, or an object of one. It gives a
            scalar, or a value for each row.

    Returns:
        The loss, to be used in its place; also as a decorator.
    """
    return whole_batch.mark(loss)


def sum_gradients(gradients: Sequence[Any]) -> list[Any]:
    """Returns the gradients of the loss of the global batch, given those that a replica's tape has found.

    An optimizer sums by itself what it is given. This is for gradients that are used before: to clip them by hand, to
    take a step along them, to log their norm. What is made of them can be given to the optimizer, which then does not
    sum a second time.

    Args:
        gradients: Tensors, `tf.IndexedSlices` or None; of a loss that is a mean over the replica's rows, or has the
            same value on all replicas.

    Returns:
        The gradients, the same on every replica; None stays None.
    """
    step = _step("sum_gradients")
    return list(gradients) if step is None else step.sum_gradients(gradients)


def gather_rows(values: Any) -> Any:
    """Returns the rows of the global batch, in their order, on every replica.

    Rows that only pad a batch are left out. Gradients go back to the replica that has the row, from whatever all
    replicas do with it: whether each computes the whole loss on all rows, or the mean over its own rows against all of
    them, the update is that of one device.

    Args:
        values: A tensor, or a nested structure of tensors, with one row for each row of the replica's part of the
            batch: features, labels, a mask. The tensors of one dtype travel together.

    Returns:
        The same structure; on one device the values as they are.
    """
    step = _step("gather_rows")
    if step is None or step.is_whole:
        return values
    gathered = step.gather_rows(keras.tree.flatten(values))
    return keras.tree.pack_sequence_as(values, gathered)


def mean_over_rows(values: Any) -> Any:
    """Returns the mean over the rows of the global batch, of shape `values.shape[1:]`, on every replica.

    Of a value for each row, this is the loss of the batch; of vectors it is their mean vector. Each replica gets the
    gradient with which the optimizer's sum is that of one device. A loss that is a plain mean need not be written so;
    this is for a mean that is used further, as in its square root.

    Args:
        values: A tensor with one row for each row of the replica's part of the batch.
    """
    return _over_rows("mean_over_rows", values, mean=True)


def sum_over_rows(values: Any) -> Any:
    """Returns the sum over the rows of the global batch, of shape `values.shape[1:]`, on every replica.

    Each replica gets the gradient with which the optimizer's sum is that of one device.

    Args:
        values: A tensor with one row for each row of the replica's part of the batch.
    """
    return _over_rows("sum_over_rows", values, mean=False)


def _over_rows(name: str, values: Any, *, mean: bool) -> Any:
    step = _step(name)
    values = tf.convert_to_tensor(values)
    if mean and not values.dtype.is_floating:
        values = tf.cast(values, keras.config.floatx())
    if step is None:
        return tf.reduce_mean(values, 0) if mean else tf.reduce_sum(values, 0)
    return step.over_rows(values, mean=mean)


def _step(name: str) -> Step | None:
    """Returns the current step; None on one device, and where a model is built."""
    step = current_step()
    if step is None and not tf.distribute.in_cross_replica_context():
        strategy = tf.distribute.get_strategy()
        if strategy.num_replicas_in_sync > 1:
            raise UnsupportedError(
                f"tfdist.{name} was called by one of {strategy.num_replicas_in_sync} replicas outside of a step of "
                "fit, and so does not know which rows of the batch the replica has. It is allowed in train_step, "
                "test_step, compute_loss and losses. Write a train_step and call fit or train_on_batch."
            )
    return step
