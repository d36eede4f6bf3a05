"""A local step: to the replica that makes it, its rows are the whole batch; only metrics and states are shared."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from tfdist._internals.contract import Step
from tfdist._internals.replica.step import ReplicaStep


class _OwnUpdates(ReplicaStep):
    """Stands before a strategy's step among the bases.

    A gradient is that of the mean over this replica's rows. What a loss, a layer or a step of the user's own computes
    over the batch, it computes over these rows. The logs stay those of all rows, and states that layers write are
    shared as in any step.
    """

    def objective(self, loss: Any) -> Any:
        # A replica without rows runs on a row of padding, which must not move its weights.
        mean = loss if loss.shape.rank == 0 else self.as_mean(loss)
        return mean * tf.cast(self.has_rows, mean.dtype)

    def shares_of(self, gradients: Sequence[Any]) -> list[Any]:
        if self.gradients_shared:
            return list(gradients)
        return [None if gradient is None else self._if_any_rows(gradient) for gradient in gradients]

    def _if_any_rows(self, gradient: Any) -> Any:
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(
                self._if_any_rows(gradient.values), gradient.indices, gradient.dense_shape
            )
        return gradient * tf.cast(self.has_rows, gradient.dtype)

    def sum_gradients(self, gradients: Sequence[Any]) -> list[Any]:
        return self.shares_of(gradients)

    @contextmanager
    def update(self, *, summed: bool) -> Iterator[None]:
        # Never summed: so loss scaling asks all replicas whether the gradients are finite, and they skip a step
        # together. Their counters, learning rates and scales stay equal.
        with super().update(summed=False):
            yield

    def trust(self, variables: Iterable[Any]) -> None:
        super().trust(variable for variable in variables if not variable.trainable)

    def whole_batch(self) -> Step:
        rows = self._num_computed
        return Step(rows, rows)

    def of_global_mean(self, mean: Any, denominator: Any) -> Any:
        return mean

    def gather_rows(self, values: Sequence[Any]) -> list[Any]:
        return [tf.convert_to_tensor(value)[: self._num_computed] for value in values]

    def own_rows(self, value: Any) -> Any:
        missing = self.rows.size - self._num_computed
        padding = tf.concat([[tf.stack([0, missing])], tf.zeros([value.shape.rank - 1, 2], tf.int64)], 0)
        return tf.ensure_shape(tf.pad(value, padding), [None, *value.shape[1:]])

    def over_rows(self, values: Any, *, mean: bool) -> Any:
        own = tf.convert_to_tensor(values)[: self._num_computed]
        return tf.reduce_mean(own, 0) if mean else tf.reduce_sum(own, 0)

    def of_each_part(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return [tf.expand_dims(value, 0) for value in values]

    @property
    def _num_computed(self) -> tf.Tensor:
        """The rows that count; the row of padding where there are none, since a mean over no rows is no number."""
        return tf.maximum(tf.cast(self.num_valid, tf.int64), 1)


@functools.cache
def local_step_class(step_class: Any) -> Any:
    """Returns the class of the local steps of a strategy whose other steps are of `step_class`."""
    return type(f"Local{step_class.__name__}", (_OwnUpdates, step_class), {})
