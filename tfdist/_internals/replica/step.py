"""What a replica knows of the step it is in: its share of the global batch, and what it must share with the others.

The contract behind every patch of this package: inside a replica, a loss (and any other value that is a mean on one
device) is the mean over the replica's own rows, and the global value is the mean of the replicas' values weighted
by their share of rows. So gradients are summed with weight `rows / global rows`, whoever computed the loss, and no
loss needs to know how many replicas there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import tensorflow as tf

from tfdist.errors import UnsupportedError

_current = threading.local()


class RowPosition(NamedTuple):
    """Where a replica's rows stand in the global batch: scalar int64 tensors.

    `size` counts the rows that the replica computes on, padding included.
    """

    first: Any
    size: Any


class ReplicaStep:
    """One replica's part of one step.

    Attributes:
        num_valid: Scalar int64, the rows of this replica that count; the rest of its batch is padding.
        num_global: Scalar int64, the rows of the global batch.
        has_rows: Scalar bool, `num_valid > 0`.
        weight: Scalar float32, `num_valid / num_global`.
        static: Whether batches are padded to one static shape; then padding may be part of any batch, while else it
            is one row in a replica that would have none.
        written: Keras variables assigned in this step, in order.
        gradients_weighted: The gradients come from a loss that has `weight` in it already.
        wants_stop: Scalar float32, above 0 where this process wants training to stop.
        shared: What this step shares with the other replicas, once it is on its way.
        gradients_reduced: The gradients that the optimizer is given are summed over the replicas already.
        rows: Where this replica's rows stand, if random numbers are to be those that the rows get on one device.
        everywhere: Gives a tensor whole to all devices of a mesh, where the step is one program over them; else None.
        by_batch: Splits a tensor over the batch axis of the mesh and nothing else, where its rows divide; else None.
        in_compiled: XLA compiles what is being traced.
        draws_by_row: Such numbers are being drawn, so that the seed is everybody's.
    """

    def __init__(self, num_valid: tf.Tensor, num_global: tf.Tensor, static: bool = False) -> None:
        self.num_valid = num_valid
        self.num_global = num_global
        self.static = static
        self.has_rows = num_valid > 0
        self.weight = tf.math.divide_no_nan(tf.cast(num_valid, tf.float32), tf.cast(num_global, tf.float32))
        self.written: list[Any] = []
        self.gradients_weighted = False
        self.gradients_reduced = False
        self.rows: RowPosition | None = None
        self.draws_by_row = False
        self.everywhere: Callable[[tf.Tensor], tf.Tensor] | None = None
        self.by_batch: Callable[[tf.Tensor], tf.Tensor] | None = None
        self._passengers: list[tf.Tensor] | None = None
        self._passengers_reduced: list[tf.Tensor] | None = None
        self._passengers_graph: Any = None
        self.in_compiled = False
        self.wants_stop: tf.Tensor | None = None
        self.shared: Any = None

    @classmethod
    def of_counted_rows(cls, num_valid: tf.Tensor, static: bool = False) -> ReplicaStep:
        """Returns the step of a replica that must ask the others how many rows they have: one small collective."""
        rows = tf.cast(num_valid, tf.float32)
        total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, rows)
        return cls(num_valid, tf.cast(total, tf.int64), static)

    @property
    def replica_id(self) -> Any:
        """This replica's number among all, an int or a scalar int32 tensor."""
        return tf.distribute.get_replica_context().replica_id_in_sync_group

    def row_mask(self, rows: Any) -> tf.Tensor:
        """Returns the float32 mask, shape `(rows,)`, with 1 for the rows that count."""
        return tf.cast(tf.range(tf.cast(rows, tf.int64)) < self.num_valid, tf.float32)

    def without_padding(self, weights: Any) -> tf.Tensor:
        """Returns floating-point weights, or a mask, of shape `(rows, …)` with 0 for padded rows."""
        weights = tf.convert_to_tensor(weights)
        weights = weights if weights.dtype.is_floating else tf.cast(weights, tf.float32)
        mask = tf.cast(self.row_mask(tf.shape(weights)[0]), weights.dtype)
        return weights * tf.reshape(mask, [-1] + [1] * (weights.shape.rank - 1))

    def sum(self, values: Sequence[Any]) -> list[Any]:
        """Sums tensors or IndexedSlices over all replicas: one collective for each dtype, slices apart."""
        if not values:
            return []
        if self.in_compiled:
            raise UnsupportedError(
                "jit_compile=True under several replicas compiles the forward and backward pass of each, and this "
                "model talks to the other replicas within it (a masked or weighted-mean loss, or synchronized batch "
                "normalization), which XLA cannot. Compile the model with jit_compile=False."
            )
        context = tf.distribute.get_replica_context()
        by_dtype: dict[Any, list[int]] = {}
        for index, value in enumerate(values):
            key = index if isinstance(value, tf.IndexedSlices) else value.dtype
            by_dtype.setdefault(key, []).append(index)
        summed: list[Any] = [None] * len(values)
        for indices in by_dtype.values():
            # TensorFlow reshapes each tensor of a pack twice; scalars, such as the states of metrics, travel as one.
            scalars = [index for index in indices if _is_scalar(values[index])]
            whole = [index for index in indices if index not in scalars]
            pack = [values[index] for index in whole]
            if scalars:
                pack.append(tf.stack([values[index] for index in scalars]))
            reduced = context.all_reduce(tf.distribute.ReduceOp.SUM, pack)
            if scalars:
                reduced = [*reduced[:-1], *tf.unstack(reduced[-1])]
            for index, value in zip([*whole, *scalars], reduced, strict=True):
                summed[index] = value
        return summed

    def add_passengers(self, values: Sequence[tf.Tensor]) -> None:
        """Lets float32 tensors travel with the next sum of gradients, so that they cost no collective."""
        self._passengers = list(values)
        self._passengers_reduced = None
        self._passengers_graph = tf.compat.v1.get_default_graph()

    def sum_gradients(self, gradients: Sequence[Any]) -> list[Any]:
        """Weights gradients by this replica's share of rows and sums them; None stays None."""
        if self.gradients_reduced:
            return list(gradients)
        present = [index for index, gradient in enumerate(gradients) if gradient is not None]
        shares = [self._gathered(gradients[index]) for index in present]
        if not self.gradients_weighted:
            shares = [_scaled(gradient, self.weight) for gradient in shares]
        # Inside a condition the passengers' sum could not be read outside, so they wait for `take_passengers`.
        aboard = self._passengers_graph is tf.compat.v1.get_default_graph()
        passengers = self._passengers if aboard and self._passengers else []
        summed = self.sum([*shares, *passengers])
        if passengers:
            self._passengers_reduced = summed[len(shares) :]
        result: list[Any] = [None] * len(gradients)
        for index, value in zip(present, summed, strict=False):
            result[index] = value
        return result

    def _gathered(self, gradient: Any) -> Any:
        # The devices of a mesh exchange slices where those are fewer than the rows of the table that each would make.
        if self.everywhere is None or not isinstance(gradient, tf.IndexedSlices):
            return gradient
        count, table = gradient.values.shape[0], tf.get_static_value(gradient.dense_shape)
        if count is None or table is None or count >= table[0]:
            return gradient
        values, indices = self.everywhere(gradient.values), self.everywhere(gradient.indices)
        return tf.IndexedSlices(values, indices, gradient.dense_shape)

    def take_passengers(self) -> list[tf.Tensor]:
        """Returns the summed passengers; sums them in a collective of their own if no gradients took them along."""
        passengers = self._passengers or []
        reduced = self._passengers_reduced
        self._passengers = self._passengers_reduced = None
        return reduced if reduced is not None else self.sum(passengers)

    @contextmanager
    def reduced_gradients(self) -> Iterator[None]:
        """While open, gradients given to an optimizer are taken as summed already."""
        before, self.gradients_reduced = self.gradients_reduced, True
        try:
            yield
        finally:
            self.gradients_reduced = before

    @contextmanager
    def drawing_by_row(self) -> Iterator[None]:
        """While open, seeds are those of all replicas and not this one's."""
        before, self.draws_by_row = self.draws_by_row, True
        try:
            yield
        finally:
            self.draws_by_row = before

    @contextmanager
    def compiled(self) -> Iterator[None]:
        """While open, XLA compiles what is traced, so that a sum over the replicas is refused."""
        self.in_compiled = True
        try:
            yield
        finally:
            self.in_compiled = False


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, tf.IndexedSlices) and value.shape.rank == 0


def _scaled(gradient: Any, weight: tf.Tensor) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * tf.cast(weight, gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(weight, gradient.dtype)


def current_step() -> ReplicaStep | None:
    """Returns the step that this replica is in, or None outside of one."""
    return getattr(_current, "step", None)


def on_mesh() -> bool:
    """Returns whether the current step is one program over the devices of a mesh."""
    step = current_step()
    return step is not None and step.everywhere is not None


@contextmanager
def replica_step(step: ReplicaStep) -> Iterator[ReplicaStep]:
    """Makes `step` the current one of this thread."""
    before = current_step()
    _current.step = step
    try:
        yield step
    finally:
        _current.step = before
