"""Which elements dropout keeps, as a function of a key and of the element's number alone.

A mask that is a function of numbers need not be kept for the backward pass, which makes it again. A part of a batch
makes its own rows and no others. XLA computes this one in the loop in which it is used; its own Philox takes it a
hundred times as long on a CPU.

The idea of a counter-based generator is that of "Parallel random numbers: as easy as 1, 2, 3" (Salmon et al., 2011).
The mixing is the finalizer of MurmurHash3 (Appleby, 2011), with one half of the key before it and one within.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

_STRIDE, _FIRST, _SECOND = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35


class Key(NamedTuple):
    """What a mask is made from.

    Attributes:
        seed: Two numbers, shape (2,), uint32; other ones for each mask.
        first_row: Scalar int64, the number in the global batch of the first row that is here.
    """

    seed: tf.Tensor
    first_row: tf.Tensor


def next_key(generator: Any) -> Key:
    """Returns the key of the next mask; inside a step with several parts that is one for the rows of the part."""
    return Key(tf.cast(generator.next(), tf.uint32), tf.constant(0, tf.int64))


def are_used() -> bool:
    """Returns whether masks are made by the numbers of rows where this is traced, and not by Keras."""
    return True


def no_key() -> Key:
    """Returns the key of a mask that drops nothing."""
    return Key(tf.zeros([2], tf.uint32), tf.constant(0, tf.int64))


def uniform_bits(shape: tf.Tensor, key: Key) -> tf.Tensor:
    """Returns uint32 of `shape`, rows first, uniformly distributed. Slow outside of a program that XLA compiles."""
    row_size = tf.reduce_prod(shape[1:])
    first = tf.cast(key.first_row, tf.uint32) * tf.cast(row_size, tf.uint32)
    numbers = tf.cast(tf.range(row_size * shape[0]), tf.uint32) + first
    # Seeds are often counted up, and mixed they have nothing in common.
    first_half = _mixed(key.seed[1] * _constant(_STRIDE) + _mixed(key.seed[0], _constant(0)), _constant(0))
    second_half = _mixed(first_half + _constant(_STRIDE), _constant(0))
    return tf.reshape(_mixed(numbers * _constant(_STRIDE) + first_half, second_half), shape)


def dropped(x: tf.Tensor, rate: float, key: Key, shape: tf.Tensor | None = None) -> tf.Tensor:
    """Returns `x` with a share `rate` of its elements 0 and the others scaled up, so that the mean stays.

    Args:
        x: Floating point, rank 1 or more.
        rate: From 0 to 1.
        key: What the mask is made from.
        shape: The shape of the mask, which is broadcast to that of `x`; by default that of `x`.
    """
    if not rate:
        return x
    if rate == 1.0:  # nothing is left to be scaled up
        return tf.zeros_like(x)
    kept = uniform_bits(tf.shape(x) if shape is None else shape, key) >= _constant(
        min(round(rate * 2**32), 2**32 - 1)
    )
    return tf.where(kept, x * (1.0 / (1.0 - rate)), tf.zeros([], x.dtype))


def _mixed(x: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
    x = _folded(x, 16) * _constant(_FIRST) + added
    x = _folded(x, 13) * _constant(_SECOND)
    return _folded(x, 16)


def _constant(number: int) -> tf.Tensor:
    return tf.constant(number, tf.uint32)


def _folded(x: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _constant(bits)))
