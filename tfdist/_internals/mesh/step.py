"""The step of a mesh: one program over all devices, which has the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.experimental import dtensor

from tfdist._internals.contract import Step
from tfdist.sharding.rules import BATCH_AXIS


class MeshStep(Step):
    """A step on a mesh.

    Args:
        num_rows: Scalar int64, the rows of the global batch.
        mesh: Where it runs.
        operations: Name -> the function that runs in place of an operation of Keras's backend. It is given this step,
            the stock function and its arguments.
        by_row: Whether each row gets the random numbers that it gets on one device. Otherwise each device draws for
            its own rows, and devices with the same rows draw the same.
    """

    # Of a program that serves batches of several sizes DTensor cannot tell the shapes inside, which it needs to know.
    compiles_parts = False

    def __init__(
        self,
        num_rows: tf.Tensor,
        mesh: dtensor.Mesh,
        operations: dict[str, Callable[..., Any]],
        by_row: bool,
    ) -> None:
        super().__init__(num_rows, num_rows)
        # Every device would make the masks of all rows.
        self.by_row = self.masks_by_row = by_row
        self._mesh = mesh
        self._operations = operations
        self._num_shards = mesh.dim_size(BATCH_AXIS) if BATCH_AXIS in mesh.dim_names else 1

    def op(self, name: str, stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        own = self._operations.get(name)
        return stock(*args, **kwargs) if own is None else own(self, stock, *args, **kwargs)

    def draw(self, shape: Any, draw: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        return self._replicated(draw(shape))

    def _sum_shares(self, shares: list[Any]) -> list[Any]:
        return [self._gathered(share) if isinstance(share, tf.IndexedSlices) else share for share in shares]

    def _gathered(self, gradient: tf.IndexedSlices) -> tf.IndexedSlices:
        # The devices exchange slices if there are fewer of them than rows of the dense gradient.
        count, table = gradient.values.shape[0], tf.get_static_value(gradient.dense_shape)
        if count is None or table is None or count >= table[0]:
            return gradient
        values, indices = self._replicated(gradient.values), self._replicated(gradient.indices)
        return tf.IndexedSlices(values, indices, gradient.dense_shape)

    def by_batch(self, value: Any) -> Any:
        """Returns a tensor split over the batch axis alone, and its gradient too; whole if its rows do not divide."""
        return _laid_out(value, self._by_batch)

    def whole(self, value: Any) -> Any:
        """Returns a tensor that is whole on every device, and so is its gradient."""
        return _laid_out(value, self._replicated)

    def _replicated(self, value: tf.Tensor) -> tf.Tensor:
        return dtensor.relayout(value, dtensor.Layout.replicated(self._mesh, value.shape.rank))

    def _by_batch(self, value: tf.Tensor) -> tf.Tensor:
        rows = value.shape[0]
        if self._num_shards == 1 or not rows or rows % self._num_shards:
            return self._replicated(value)
        return dtensor.relayout(value, dtensor.Layout.batch_sharded(self._mesh, BATCH_AXIS, value.shape.rank))


def _laid_out(value: Any, layout: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    value = tf.convert_to_tensor(value)
    if not value.dtype.is_floating:
        return layout(value)

    @tf.custom_gradient
    def identity(tensor: tf.Tensor) -> Any:
        return layout(tensor), layout

    return identity(value)
