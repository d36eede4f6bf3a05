"""Sums over the replicas by as few collectives as possible; small tensors travel with the gradients, as passengers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


def all_reduce(values: Sequence[Any]) -> list[Any]:
    """Sums tensors or IndexedSlices over all replicas: one collective for each dtype, and one for each IndexedSlices.

    Must be called in a replica's context.
    """
    context = tf.distribute.get_replica_context()
    by_dtype: dict[Any, list[int]] = {}
    for index, value in enumerate(values):
        key = index if isinstance(value, tf.IndexedSlices) else value.dtype
        by_dtype.setdefault(key, []).append(index)
    summed: list[Any] = [None] * len(values)
    for indices in by_dtype.values():
        # TensorFlow reshapes each tensor of a pack twice. So scalars, such as the states of metrics, travel as one
        # vector.
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


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, tf.IndexedSlices) and value.shape.rank == 0


class GradientExchange:
    """Sums gradients over the replicas, and lets small tensors travel along.

    Args:
        sum_over_replicas: Sums a list of tensors or IndexedSlices.
    """

    def __init__(self, sum_over_replicas: Callable[[Sequence[Any]], list[Any]]) -> None:
        self._sum = sum_over_replicas
        self._passengers: list[tf.Tensor] = []
        self._reduced: list[tf.Tensor] | None = None
        self._graph: Any = None

    def add_passengers(self, values: Sequence[tf.Tensor]) -> None:
        """Lets float32 tensors travel with the next sum of gradients."""
        self._passengers = list(values)
        self._reduced = None
        self._graph = tf.compat.v1.get_default_graph()

    def sum_gradients(self, shares: Sequence[Any]) -> list[Any]:
        """Returns the sums of the gradients' shares; None stays None."""
        present = [index for index, share in enumerate(shares) if share is not None]
        # If this is inside a condition, a sum that is computed here cannot be read outside of it. The passengers then
        # wait for `take_passengers`.
        is_here = self._reduced is None and self._graph is tf.compat.v1.get_default_graph()
        aboard = self._passengers if is_here else []
        summed = self._sum([*(shares[index] for index in present), *aboard])
        if aboard:
            self._reduced = summed[len(present) :]
        result: list[Any] = [None] * len(shares)
        for index, value in zip(present, summed, strict=False):
            result[index] = value
        return result

    def take_passengers(self) -> list[tf.Tensor]:
        """Returns the summed passengers; sums them in a collective of their own if no gradients took them along."""
        passengers, reduced = self._passengers, self._reduced
        self._passengers, self._reduced = [], None
        return reduced if reduced is not None else self._sum(passengers)
