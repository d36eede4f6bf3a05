"""One replica's part of a step: its rows, and sums over all replicas by collectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from tfdist._internals.contract import Step, seed_of_part
from tfdist._internals.replica import rows as replica_rows
from tfdist._internals.replica.exchange import GradientExchange, all_reduce
from tfdist._internals.replica.rows import RowPosition, StepOfRows
from tfdist._internals.replica.sameness import Sameness
from tfdist._internals.replica.slices import sum_with_slices
from tfdist._internals.rows import first_rows
from tfdist.errors import UnsupportedError
from tfdist.process import num_processes, process_index


class ReplicaStep(StepOfRows):
    """The step of a replica; it must be open in the replica's context.

    Args:
        num_valid: Scalar int64, the rows of this replica that count; the others are padding.
        num_global: Scalar int64, the rows of the global batch.
        rows: Where this replica's rows stand in the global batch.
        padded: Whether batches are padded to one static shape, so that any batch may have padding. If not, the only
            padding is the one row of a replica that would have none.
        by_row: Whether each row is to get the random numbers that it gets on one device.

    Attributes:
        of_global_batch: Whether each process has the global batch, and not a part that is its own.
    """

    is_whole = False

    def __init__(
        self,
        num_valid: tf.Tensor,
        num_global: tf.Tensor,
        rows: RowPosition,
        padded: bool = False,
        by_row: bool = False,
    ) -> None:
        super().__init__(num_valid, num_global)
        self.padded = padded
        self.by_row = by_row
        self.rows = rows
        self._has_rows = num_valid > 0
        self._weight = self._weight_in(tf.float32)
        # Without a graph the replicas run one after the other, and nothing but plain sums is possible.
        self._communication = (
            None if tf.executing_eagerly() else getattr(tf.distribute.get_strategy(), "communication", None)
        )
        self.keeps_errors = self._communication is not None and self._communication.compresses
        narrow = self._communication is not None and self._communication.options.dtype != "float32"
        self._exchange = GradientExchange(self.sum, self._sum_narrow if narrow else None)
        self._sameness = Sameness()
        self._differing: dict[
            int, Any
        ] = {}  # Keras variables that were written otherwise on other replicas, perhaps
        self.draws_for_all = False
        self.of_global_batch = True

    @classmethod
    def of_counted_rows(cls, num_valid: tf.Tensor, size: tf.Tensor, padded: bool = False) -> ReplicaStep:
        """Returns the step of a replica that asks the others how many rows they have, by one small collective.

        Args:
            num_valid: Scalar int64, the rows of this replica that count.
            size: Scalar int64, the rows that it computes on, padding included.
            padded: Whether any batch may have padding.
        """
        context = tf.distribute.get_replica_context()
        replica, num_replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
        own = tf.one_hot(replica, num_replicas) * tf.cast(num_valid, tf.float32)
        counts = tf.cast(context.all_reduce(tf.distribute.ReduceOp.SUM, own), tf.int64)
        first = tf.cumsum(counts, exclusive=True)[replica]
        step = cls(num_valid, tf.reduce_sum(counts), RowPosition(first, size), padded)
        step.of_global_batch = False
        return step

    @property
    def has_rows(self) -> tf.Tensor:
        return self._has_rows

    @property
    def weight(self) -> tf.Tensor:
        return self._weight

    def _weight_in(self, dtype: Any) -> tf.Tensor:
        """Returns the share of the rows; a share in float32 would take half of the digits of a float64."""
        exact = tf.float64 if dtype == tf.float64 else tf.float32
        share = tf.math.divide_no_nan(tf.cast(self.num_valid, exact), tf.cast(self.num_global, exact))
        return tf.cast(share, dtype)

    @property
    def replica_id(self) -> Any:
        """This replica's number among all, an int or a scalar int32 tensor."""
        return tf.distribute.get_replica_context().replica_id_in_sync_group

    def gather_rows(self, values: Sequence[Any]) -> list[Any]:
        return replica_rows.gather_rows(self, values)

    def own_rows(self, value: Any) -> Any:
        return replica_rows.own_rows(self, value)

    def over_rows(self, values: Any, *, mean: bool) -> Any:
        return replica_rows.over_rows(self, values, mean=mean)

    def whole_batch(self) -> Step:
        return Step(self.num_global, self.num_global)

    def told(self) -> list[tf.Tensor]:
        if num_processes() == 1 or not self.of_global_batch:
            return super().told()
        # Each process says how many rows its global batch has; one replica of each speaks, at the place of its process.
        num_local = tf.distribute.get_strategy().num_replicas_in_sync // num_processes()
        speaks = tf.cast(tf.equal(tf.cast(self.replica_id, tf.int32) % num_local, 0), tf.float32)
        rows = tf.one_hot(process_index(), num_processes()) * speaks * tf.cast(self.num_global, tf.float32)
        return [*super().told(), rows]

    def heard(self, told: Sequence[tf.Tensor]) -> tf.Tensor:
        # The host looks at the rows. With a tf.debugging.Assert here instead, masked losses on two replicas in each of
        # two processes waited for ever.
        return tf.concat([tf.reshape(told[0], [1]), *told[1:]], 0) if len(told) > 1 else told[0]

    def counted(self, output: Any) -> Any:
        return first_rows(output, self.num_valid)

    def share(self, mean: Any) -> Any:
        if isinstance(mean, tf.IndexedSlices):
            values = mean.values * self._weight_in(mean.values.dtype)
            return tf.IndexedSlices(values, mean.indices, mean.dense_shape)
        return mean * self._weight_in(mean.dtype)

    def as_mean(self, total: Any) -> Any:
        return tf.math.divide_no_nan(total, self._weight_in(total.dtype))

    def of_global_mean(self, mean: Any, denominator: Any) -> Any:
        exact = tf.float64 if mean.dtype == tf.float64 else tf.float32
        own = tf.stop_gradient(tf.cast(denominator, exact)) * tf.cast(self.has_rows, exact)
        part = tf.math.divide_no_nan(own, self.sum([own])[0])
        return self.as_mean(mean * tf.cast(part, mean.dtype))

    def sum(self, values: Sequence[Any]) -> list[Any]:
        if self.in_compiled and values:
            raise UnsupportedError(
                "jit_compile=True under several replicas compiles the forward and backward pass of each, and this "
                "model talks to the other replicas within it (a masked or weighted-mean loss, a loss on the whole "
                "batch, or synchronized batch normalization), which XLA cannot. Compile the model with "
                "jit_compile=False."
            )
        totals = all_reduce(values)
        self.mark_same(totals)
        return totals

    def of_each_part(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        # A sum in which each replica has a place of its own, since small messages are faster summed than gathered.
        own = tf.equal(tf.range(context.num_replicas_in_sync), context.replica_id_in_sync_group)
        return self.sum(
            [
                tf.where(
                    tf.reshape(own, [-1] + [1] * value.shape.rank),
                    value[tf.newaxis],
                    tf.zeros_like(value)[tf.newaxis],
                )
                for value in values
            ]
        )

    def mark_same(self, values: Sequence[Any]) -> None:
        self._sameness.mark(values)

    def trust(self, variables: Iterable[Any]) -> None:
        self._sameness.trust(variables)

    def differs(self, variable: Any) -> bool:
        return id(variable) in self._differing

    def of_first(self, value: Any) -> Any:
        return value * tf.cast(tf.equal(self.replica_id, 0), value.dtype)

    def sum_gradients(self, gradients: Sequence[Any]) -> list[Any]:
        # Gradients that are the same on all replicas were summed, and perhaps clipped, by the user.
        given = list(gradients)
        summed = {
            index
            for index, gradient in enumerate(given)
            if gradient is not None and not self.gradients_shared and self._sameness.holds(gradient)
        }
        found = super().sum_gradients([None if index in summed else one for index, one in enumerate(given)])
        return [given[index] if index in summed else one for index, one in enumerate(found)]

    def _sum_shares(self, shares: list[Any]) -> list[Any]:
        if self._communication is None:
            return sum_with_slices(shares, self._sameness.holds, self._exchange.sum_gradients)
        present = [index for index, share in enumerate(shares) if share is not None]
        compressed: list[Any] = [None] * len(shares)
        totals = self._communication.compressed(self.sum, [shares[index] for index in present], self.updated)
        self.mark_same([total for total in totals if total is not None])
        for index, total in zip(present, totals, strict=True):
            compressed[index] = total
        rest = [share if one is None else None for share, one in zip(shares, compressed, strict=True)]
        summed = sum_with_slices(rest, self._sameness.holds, self._exchange.sum_gradients)
        return [total if one is None else one for total, one in zip(summed, compressed, strict=True)]

    def _sum_narrow(self, values: Sequence[Any]) -> list[Any]:
        assert self._communication is not None
        totals = self._communication.sum(self.sum, values)
        self.mark_same(totals)
        return totals

    def add_passengers(self, values: Sequence[tf.Tensor]) -> None:
        self._exchange.add_passengers(values)

    def take_passengers(self) -> list[tf.Tensor]:
        return self._exchange.take_passengers()

    def stored(self, variable: Any, value: Any) -> Any:
        value = super().stored(variable, value)
        if not self._sameness.holds(value):
            self._differing[id(variable)] = variable
            self._sameness.doubt(variable)
        if variable.synchronization != "on_read":
            return value
        stored = variable._value
        return tf.where(self.has_rows, tf.cast(value, stored.dtype), tf.convert_to_tensor(stored))

    def seed(self, advance: Callable[[], Any]) -> Any:
        seed = advance()
        if self.draws_for_all or tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return seed
        return seed_of_part(seed, self.replica_id)

    @property
    def first_row(self) -> tf.Tensor:
        return self.rows.first

    def draw(self, shape: Any, draw: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        """Draws for the global batch, from the seed that all replicas share, and keeps the rows of this replica.

        So every replica draws as much as one device would.
        """
        if not tf.is_tensor(shape) and not (len(shape) and tf.is_tensor(shape[0])):
            with self.drawing_for_all():
                return draw(shape)
        shape = tf.stack(
            [tf.cast(size, tf.int64) for size in (tf.unstack(shape) if tf.is_tensor(shape) else shape)]
        )
        if self.in_compiled:
            raise UnsupportedError(
                "random_by_row draws for as many rows as the global batch happens to have, and jit_compile=True cannot "
                "compile that. Compile the model with jit_compile=False, or leave random_by_row off."
            )
        by_row = tf.equal(shape[0], self.rows.size)
        start = tf.where(by_row, self.rows.first, tf.zeros_like(self.rows.first))
        with self.drawing_for_all():
            whole = draw(tf.concat([[tf.where(by_row, self.num_global, shape[0])], shape[1:]], 0))
        # If this replica has no rows of its own, or has padding, it asks for more rows than the global batch has.
        missing = tf.maximum(start + shape[0] - tf.shape(whole, out_type=tf.int64)[0], 0)
        padding = tf.concat([[[0, missing]], tf.zeros([tf.rank(whole) - 1, 2], tf.int64)], 0)
        own = tf.pad(whole, padding)[start : start + shape[0]]
        return tf.ensure_shape(own, [None, *whole.shape[1:]])

    @contextmanager
    def drawing_for_all(self) -> Iterator[None]:
        with self._during(draws_for_all=True):
            yield
