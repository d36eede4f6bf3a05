"""Slices of a table whose rows all replicas have are summed by row, since one device has each of these rows once.

The gradient of an embedding has one slice for each look-up. Those of all replicas, one after the other, are what one
device has, if the ids come from the rows of the batch. Ids that do not come from there, such as the positions of a
sequence, each replica has too. Optimizers square slices one by one, and clipping takes the norm of them. So a row that
came twice would count otherwise than on one device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

# What may stand between the operation that made ids each of which is there once, and the look-up: the operation's type,
# and which input has the ids. Keras selects them where they are not negative.
_ONCE_IF_INPUT = {"Reshape": 0, "Cast": 0, "Identity": 0, "ExpandDims": 0, "Squeeze": 0, "SelectV2": 2}
_SHIFTS = ("AddV2", "Add", "Sub")


class _Part(NamedTuple):
    """The slices of one look-up: what is summed over the replicas, and the ids.

    Attributes:
        share: What is summed over the replicas: IndexedSlices; or the values alone, if all replicas have the same ids.
        indices: The ids.
        once: Whether each id is there once on one device, in which case the sum has each once as well.
    """

    share: Any
    indices: tf.Tensor
    once: bool

    def of_sum(self, total: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns values and ids of the sum over the replicas."""
        if not isinstance(total, tf.IndexedSlices):
            return total, self.indices
        if not self.once:
            return total.values, total.indices
        indices, place = tf.unique(total.indices)
        return tf.math.unsorted_segment_sum(total.values, place, tf.size(indices)), indices


def sum_with_slices(
    shares: Sequence[Any], is_same: Callable[[Any], bool], sum_all: Callable[[Sequence[Any]], list[Any]]
) -> list[Any]:
    """Returns the sums over the replicas of shares of gradients, with slices as one device has them.

    Args:
        shares: Tensors, IndexedSlices and None, which stays None.
        is_same: Tells whether a tensor has the same value on all replicas by what it is made of.
        sum_all: Sums tensors, IndexedSlices and None over the replicas.
    """
    parts = [_parts(share, is_same) if isinstance(share, tf.IndexedSlices) else None for share in shares]
    given = [
        [share] if own is None else [part.share for part in own]
        for share, own in zip(shares, parts, strict=True)
    ]
    totals = iter(sum_all([share for group in given for share in group]))
    found = []
    for share, own in zip(shares, parts, strict=True):
        if own is None:
            found.append(next(totals))
            continue
        values, indices = zip(*(part.of_sum(next(totals)) for part in own), strict=True)
        found.append(tf.IndexedSlices(_joined(values), _joined(indices), share.dense_shape))
    return found


def _parts(gradient: tf.IndexedSlices, is_same: Callable[[Any], bool]) -> list[_Part]:
    indices = _look_ups(gradient.indices)
    values = [gradient.values]
    if len(indices) > 1:
        values = tf.split(gradient.values, [tf.size(one) for one in indices])
    parts = []
    for value, own in zip(values, indices, strict=True):
        same = is_same(own)
        share = value if same else tf.IndexedSlices(value, own, gradient.dense_shape)
        parts.append(_Part(share, own, not same and _is_there_once(own)))
    return parts


def _look_ups(indices: Any) -> list[Any]:
    """Returns the ids of each look-up. TensorFlow puts those of several in one table one after the other."""
    if (
        isinstance(indices, tf.__internal__.EagerTensor)
        or indices.op.type != "ConcatV2"
        or indices.shape.rank != 1
    ):
        return [indices]
    return [one for source in indices.op.inputs[:-1] for one in _look_ups(source)]


def _is_there_once(indices: Any) -> bool:
    while not isinstance(indices, tf.__internal__.EagerTensor):
        operation = indices.op
        if operation.type.startswith("Unique"):
            return bool(indices is operation.outputs[0])
        if operation.type == "Range":
            return True
        if operation.type in _SHIFTS:
            longer = [source for source in operation.inputs if source.shape.rank != 0]
            if len(longer) != 1:
                return False
            indices = longer[0]
        elif operation.type in _ONCE_IF_INPUT:
            indices = operation.inputs[_ONCE_IF_INPUT[operation.type]]
        else:
            return False
    return False


def _joined(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tensors[0] if len(tensors) == 1 else tf.concat(tensors, 0)
