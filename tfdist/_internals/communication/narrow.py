"""Sums of gradients that travel in bfloat16 or float16.

Each replica rounds what it sends once. Two replicas send each other all of it, and sum in float32: the bytes of a ring.
More of them sum in float32 too: each is sent its part of the numbers by all others, sums it, rounds the sum, and sends
it to all. That is the bytes of a ring, in which each replica would round again what it adds to.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfdist._internals.communication.link import AllReduce, Link, flattened, padded, unflattened

# Bytes of float32 that are rounded and sent together; see `replica/exchange.py`.
_BUCKET_BYTES = 4 << 20


def sum_narrow(link: Link, tensors: Sequence[tf.Tensor], dtype: tf.DType) -> list[tf.Tensor]:
    """Returns sums over the replicas, equal in all of them, with a relative error of at most that of the dtype.

    The last tensors travel first, since a backward pass has their gradients first.

    Args:
        link: To the other replicas.
        tensors: Float32, of static shapes.
        dtype: bfloat16 or float16.
    """
    found: list[tf.Tensor] = []
    for bucket in _buckets(list(reversed(tensors))):
        vector = flattened(bucket)
        total = _sum_of_vectors(link, tf.cast(vector, dtype))[: vector.shape[0]]
        found += unflattened(total, bucket)
    return found[::-1]


def _buckets(tensors: Sequence[tf.Tensor]) -> list[list[tf.Tensor]]:
    found: list[list[tf.Tensor]] = []
    size = _BUCKET_BYTES
    for tensor in tensors:
        if size >= _BUCKET_BYTES:
            found.append([])
            size = 0
        found[-1].append(tensor)
        size += 4 * tensor.shape.num_elements()
    return found


def _sum_of_vectors(link: Link, vector: tf.Tensor) -> tf.Tensor:
    dtype, count = vector.dtype, link.num_replicas
    if count == 2:
        # In the order of the replicas, and so the same bits in both.
        first, second = tf.unstack(_numbers(link.all_gather(_bits(padded(vector, 2))), dtype))
        return tf.cast(first, tf.float32) + tf.cast(second, tf.float32)
    pieces = tf.reshape(padded(vector, 2 * count), [count, -1])
    received = _numbers(link.all_to_all(_bits(pieces)), dtype)
    own = tf.cast(tf.reduce_sum(tf.cast(received, tf.float32), 0), dtype)
    whole = _numbers(link.all_gather(_bits(own)), dtype)
    return tf.cast(tf.reshape(whole, [-1]), tf.float32)


def _bits(values: tf.Tensor) -> tf.Tensor:
    """Returns pairs of 16-bit numbers as float32 of the same bits: collectives do not gather every dtype."""
    return tf.bitcast(tf.reshape(values, [*values.shape[:-1], -1, 2]), tf.float32)


def _numbers(bits: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    pairs = tf.bitcast(bits, dtype)
    return tf.reshape(pairs, [*pairs.shape[:-2], -1])


def sum_slices_narrow(all_reduce: AllReduce, slices: tf.IndexedSlices, dtype: tf.DType) -> tf.IndexedSlices:
    """Returns the slices of all replicas, of which the values have travelled in a narrow dtype.

    Args:
        all_reduce: Gathers the slices of all replicas, in float32.
        slices: Float32 values of shape `(slices, width)` with an even width.
        dtype: bfloat16 or float16.
    """
    width = slices.values.shape[-1]
    bits = tf.bitcast(tf.reshape(tf.cast(slices.values, dtype), [-1, width // 2, 2]), tf.float32)
    (gathered,) = all_reduce([tf.IndexedSlices(bits, slices.indices)])
    values = tf.reshape(tf.bitcast(gathered.values, dtype), [-1, width])
    return tf.IndexedSlices(tf.cast(values, tf.float32), gathered.indices, slices.dense_shape)
