"""Signs: one bit for each number of a gradient, and one scale for each tensor (Seide et al. 2014)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist._internals.communication.compressor import Compressor
from tfdist._internals.communication.link import Link, flattened, padded, unflattened

# The bits of a tensor fill whole float32 numbers, in which they travel.
_WORD = 32
_PLACES = 2.0 ** np.arange(7, -1, -1, dtype=np.float32)
# Byte -> the signs that its bits stand for, the highest bit first.
_SIGNS = np.where(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1), 1.0, -1.0).astype(
    np.float32
)


class Sign(Compressor):
    """Gathers signs, and the mean size of each tensor's numbers, which with error feedback converges like the gradient.

    The scale is that of Karimireddy et al. 2019 (EF-signSGD), by which the error never grows.
    """

    def sent_bytes(self, shape: Sequence[int]) -> int:
        return (self.num_replicas - 1) * (4 * -(-math.prod(shape) // _WORD) + 4)

    def sum(
        self, link: Link, tensors: Sequence[tf.Tensor], states: Sequence[Mapping[str, Any]]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        flats = [padded(tf.reshape(tensor, [-1]), _WORD) for tensor in tensors]
        scales = tf.stack([tf.reduce_mean(tf.abs(tensor)) for tensor in tensors])
        packed = packed_signs(flattened(flats))
        received = tf.unstack(link.all_gather(tf.concat([packed, scales], 0)))
        totals = [tf.zeros_like(flat) for flat in flats]
        # In the order of the replicas, so that all of them round alike.
        for one in received:
            signs = unflattened(signs_of(one[: packed.shape[0]]), flats)
            theirs = tf.unstack(one[packed.shape[0] :])
            totals = [total + scale * sign for total, scale, sign in zip(totals, theirs, signs, strict=True)]
        own = zip(tensors, tf.unstack(scales), strict=True)
        leftovers = [tensor - tf.where(tensor > 0, scale, -scale) for tensor, scale in own]
        cut = zip(totals, tensors, strict=True)
        return [
            tf.reshape(total[: tensor.shape.num_elements()], tensor.shape) for total, tensor in cut
        ], leftovers


def packed_signs(values: tf.Tensor) -> tf.Tensor:
    """Returns a bit for each number, set if it is above 0, as float32 of the same bits.

    Args:
        values: A vector of which the size is a multiple of 32.
    """
    bits = tf.reshape(tf.cast(values > 0, tf.float32), [-1, 8])
    # A product, which is exact below 2^24: TensorFlow for Python has no operation that packs bits.
    octets = tf.cast(tf.linalg.matvec(bits, tf.constant(_PLACES)), tf.uint8)
    return tf.bitcast(tf.reshape(octets, [-1, 4]), tf.float32)


def signs_of(packed: tf.Tensor) -> tf.Tensor:
    """Returns the signs, 1 or -1, of which `packed_signs` made a vector."""
    octets = tf.cast(tf.reshape(tf.bitcast(packed, tf.uint8), [-1]), tf.int32)
    return tf.reshape(tf.gather(tf.constant(_SIGNS), octets), [32 * packed.shape[0]])
