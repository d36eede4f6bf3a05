"""Cuts a global batch into one piece for each replica and says how many rows of each piece count.

When a batch does not divide, stock tf.distribute rebatches it. A replica then has no rows, or a number of rows that is
not known in the step. Here every replica gets a piece of nearly equal size, its number of rows, and the global number.
A replica that would have no row gets one that does not count.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf
from keras import tree

from tfdist._internals.rows import count_rows


class ReplicaBatch(NamedTuple):
    """One replica's piece of a global batch: `data` as the user gave it, and scalar int64 row counts."""

    data: Any
    num_valid: Any
    num_global: Any


class OwnShare(NamedTuple):
    """A replica's piece of a batch that only this worker has. The step asks how many rows the others have."""

    data: Any
    num_valid: Any


class LocalPieces(NamedTuple):
    """The pieces of all replicas of this process, in their order, before each replica is given its own."""

    pieces: tuple[Any, ...]


def _cut(leaf: Any, start: Any, size: Any, num_replicas: int, padded_size: int | None) -> Any:
    if isinstance(leaf, tf.SparseTensor):
        rest = leaf.dense_shape[1:]
        piece = tf.sparse.slice(
            leaf, tf.concat([[start], tf.zeros_like(rest)], 0), tf.concat([[size], rest], 0)
        )
        return tf.SparseTensor(piece.indices, piece.values, tf.concat([[size], rest], 0))
    if isinstance(leaf, tf.RaggedTensor):
        return leaf[start : start + size]
    if not tf.is_tensor(leaf) or leaf.shape.rank == 0:
        return leaf
    if padded_size is None:
        if leaf.shape.rank is None:
            return leaf[start : start + size]
        # If all batches divide evenly, the size of a piece is known, and with it the shapes of the whole step. The
        # gradients of broadcasts and sums then need no work at run time.
        num_rows = leaf.shape[0]
        even = num_rows // num_replicas if num_rows and num_rows % num_replicas == 0 else None
        return tf.ensure_shape(leaf[start : start + size], [even, *leaf.shape[1:]])
    # Padding repeats the last row, which is as harmless to the model as any real row.
    rows = tf.minimum(start + tf.range(padded_size, dtype=tf.int64), start + size - 1)
    return tf.ensure_shape(tf.gather(leaf, rows), [padded_size, *leaf.shape[1:]])


def first_row(replica: Any, num_rows: Any, num_replicas: int) -> Any:
    """Returns where the piece of `replica` begins in a global batch of `num_rows`, a scalar int64 tensor."""
    return tf.cast(replica, tf.int64) * num_rows // num_replicas


def cut_batch(data: Any, replica: Any, num_replicas: int, padded_size: int | None = None) -> ReplicaBatch:
    """Returns the piece of a global batch that is for `replica` of `num_replicas`.

    Args:
        data: Nested dense, ragged and sparse tensors with one first dimension, the rows; scalars go to all replicas.
        replica: Int or scalar int64 tensor.
        num_replicas: How many pieces there are.
        padded_size: Rows of each piece after padding, for static shapes; None leaves the sizes as they fall.
    """
    num_rows = count_rows(data)
    begin, end = (first_row(index, num_rows, num_replicas) for index in (replica, replica + 1))
    start = tf.minimum(begin, num_rows - 1)
    size = tf.maximum(end - begin, 1)
    piece = tree.map_structure(
        lambda leaf: _cut(leaf, start, size, num_replicas, padded_size), data, none_is_leaf=False
    )
    return ReplicaBatch(piece, end - begin, num_rows)
