"""Sums over the replicas by as few collectives as possible; small tensors travel with the gradients, as passengers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfdist._internals.contract import SizesVaryError, distribution_of

# A sum of more bytes than these travels in several buckets, each a collective that begins as soon as its tensors are
# there. 40 MB, two workers on one host, a core each: 52 ms in buckets of 4 or 8 MiB, 57 of 16, 60 of 1, 62 to 80 in
# one; within one process the sizes make no difference. Nearly all models of less than this have one collective.
BUCKET_BYTES = 4 << 20


def all_reduce(values: Sequence[Any]) -> list[Any]:
    """Sums tensors or IndexedSlices over all replicas: in buckets for each dtype, and one by one if IndexedSlices.

    The collectives of a device run in the order in which they are made here, the same in all processes. The last
    tensors come first, since a backward pass has the gradients of the last layers first, and what travels with
    gradients, at the end of the list, is there before it. Slices, which belong to tables of the first layers, come
    last: the buckets would otherwise wait for them.

    Must be called in a replica's context.

    Raises:
        SizesVaryError: In a loop over steps, something has no fixed size. TensorFlow takes a collective of a loop to
            have the size that it had at first, and would fail in the middle of the training.
    """
    context = tf.distribute.get_replica_context()
    distribution = distribution_of(context.strategy)
    if distribution is not None and distribution.in_loop and not all(map(_has_fixed_size, values)):
        raise SizesVaryError
    options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=BUCKET_BYTES)
    summed: list[Any] = [None] * len(values)
    for indices in _groups(values):
        # TensorFlow reshapes each tensor of a pack twice. So scalars, such as the states of metrics, travel as one
        # vector.
        scalars = [index for index in indices if _is_scalar(values[index])]
        whole = [index for index in indices if index not in scalars]
        pack = [values[index] for index in whole]
        if scalars:
            pack.append(tf.stack([values[index] for index in scalars]))
        reduced = context.all_reduce(tf.distribute.ReduceOp.SUM, pack, options)
        if scalars:
            reduced = [*reduced[:-1], *tf.unstack(reduced[-1])]
        for index, value in zip([*whole, *scalars], reduced, strict=True):
            summed[index] = value
    return summed


def _groups(values: Sequence[Any]) -> list[list[int]]:
    """Returns the numbers of the values that are summed together, in the order in which that is begun."""
    by_dtype: dict[Any, list[int]] = {}
    slices = []
    for index, value in enumerate(values):
        if isinstance(value, tf.IndexedSlices):
            slices.append([index])
        else:
            by_dtype.setdefault(value.dtype, []).append(index)
    groups, late = [], []
    for indices in by_dtype.values():
        known = [index for index in indices if values[index].shape.is_fully_defined()]
        num_bytes = sum(values[index].shape.num_elements() * values[index].dtype.size for index in known)
        # One tensor whose size is not known, as that of a table of positions, would keep all of them in one piece.
        is_apart = num_bytes > BUCKET_BYTES > 0 and len(known) < len(indices)
        groups.append(known if is_apart else indices)
        if is_apart:
            late.append([index for index in indices if index not in known])
    return [*groups, *late, *slices]


def _has_fixed_size(value: Any) -> bool:
    return (value.values if isinstance(value, tf.IndexedSlices) else value).shape.is_fully_defined()


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, tf.IndexedSlices) and value.shape.rank == 0


class GradientExchange:
    """Sums gradients over the replicas, and lets small tensors travel along.

    Args:
        sum_over_replicas: Sums a list of tensors or IndexedSlices.
        sum_of_gradients: Sums gradients, if these travel otherwise, so that nothing travels with them.
    """

    def __init__(
        self,
        sum_over_replicas: Callable[[Sequence[Any]], list[Any]],
        sum_of_gradients: Callable[[Sequence[Any]], list[Any]] | None = None,
    ) -> None:
        self._sum = sum_over_replicas
        self._sum_of_gradients = sum_of_gradients
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
        gradients = [shares[index] for index in present]
        if self._sum_of_gradients is None:
            summed = self._sum([*gradients, *aboard])
        else:
            # What travels along is there first.
            others = self._sum(aboard) if aboard else []
            summed = [*self._sum_of_gradients(gradients), *others]
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
