"""Averages of large tables send only the rows that are not the same on all replicas, such as those of words not seen.

The replicas begin a round with the same table. A row that none of them has looked up since its slots were alike is
moved by all of them in the same way, or not at all. Which rows these are is not asked of the optimizer, but seen: each
replica sends a digest of 64 bits for each row, and rows with equal digests stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfdist._internals.replica.exchange import all_reduce

# A table is worth its digests, 16 bytes a row, if it is large and long.
_MIN_BYTES = 1 << 20
_MIN_ROWS_PER_COLUMN = 8

_BITS = {tf.float64: tf.int64, tf.float32: tf.int32}


def average(values: Sequence[tf.Tensor], part: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Sums each replica's values times its part over the replicas; in a replica.

    Args:
        values: Tensors of float32 or float64.
        part: Scalar float64; the parts of all replicas add up to 1.

    Returns:
        The sums, and how many bytes each replica has given for them, a scalar float32.
    """
    tables = [index for index, value in enumerate(values) if is_table(value)]
    found, num_digests = _rows_that_differ([values[index] for index in tables])
    rows = dict(zip(tables, found, strict=True))
    sent = [tf.gather(value, rows[index]) if index in rows else value for index, value in enumerate(values)]
    sums = all_reduce([value * tf.cast(part, value.dtype) for value in sent])
    means = [
        tf.tensor_scatter_nd_update(value, rows[index][:, tf.newaxis], total) if index in rows else total
        for index, (value, total) in enumerate(zip(values, sums, strict=True))
    ]
    sizes = [tf.cast(tf.size(value), tf.float32) * value.dtype.size for value in sent]
    return means, tf.add_n([tf.constant(8.0 * num_digests), *sizes])


def is_table(value: tf.Tensor) -> bool:
    """Returns whether a tensor has the shape of a large table: few columns, and many rows."""
    shape = value.shape
    return (
        shape.rank == 2
        and shape[0] >= _MIN_ROWS_PER_COLUMN * shape[1]
        and shape.num_elements() * value.dtype.size >= _MIN_BYTES
    )


def _rows_that_differ(tables: Sequence[tf.Tensor]) -> tuple[list[tf.Tensor], int]:
    """Returns, for each table, the numbers of the rows that are not alike on all replicas, and the number of digests.

    The numbers, int64, are the same on all replicas.
    """
    if not tables:
        return [], 0
    digests = [_digests(table) for table in tables]
    sums = all_reduce([*digests, *(tf.square(digest) for digest in digests)])
    count = tf.cast(tf.distribute.get_replica_context().num_replicas_in_sync, tf.int64)
    # Numbers are equal if and only if the square of their sum is as many times the sum of their squares. In integers
    # that wrap around this is true of other numbers once in about 2 ** 64 times.
    found = [
        tf.where(tf.not_equal(tf.square(total), count * squares))[:, 0]
        for total, squares in zip(sums[: len(tables)], sums[len(tables) :], strict=True)
    ]
    return found, 2 * sum(table.shape[0] for table in tables)


def _digests(table: tf.Tensor) -> tf.Tensor:
    """Returns a number for each row, int64, that differs for different rows, with all but certainty."""
    bits = tf.cast(tf.bitcast(table, _BITS[table.dtype]), tf.int64)
    factors = np.random.default_rng(0).integers(-(2**63), 2**63, table.shape[1], np.int64) | 1
    return tf.reduce_sum(bits * factors, 1)
