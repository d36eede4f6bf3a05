"""Top-k: the largest numbers of each gradient, with their places (Stich et al. 2018; Lin et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfdist._internals.communication.compressor import Compressor
from tfdist._internals.communication.link import Link, flattened


class TopK(Compressor):
    """Gathers the largest numbers of each replica's own gradient; their sum has those of all replicas.

    Args:
        num_replicas: Over all processes.
        share: The part of the numbers of each tensor that is sent.
    """

    def __init__(self, num_replicas: int, share: float) -> None:
        super().__init__(num_replicas)
        self.share = share

    def count(self, size: int) -> int:
        """Returns how many of `size` numbers are sent."""
        return max(1, round(self.share * size))

    def sent_bytes(self, shape: Sequence[int]) -> int:
        return (self.num_replicas - 1) * 8 * self.count(math.prod(shape))

    def sum(
        self, link: Link, tensors: Sequence[tf.Tensor], states: Sequence[Mapping[str, Any]]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        flats = [tf.reshape(tensor, [-1]) for tensor in tensors]
        counts = [self.count(flat.shape[0]) for flat in flats]
        places = [
            tf.math.top_k(tf.abs(flat), count).indices for flat, count in zip(flats, counts, strict=True)
        ]
        values = [tf.gather(flat, place) for flat, place in zip(flats, places, strict=True)]
        sent = flattened([*values, *(tf.bitcast(place, tf.float32) for place in places)])
        received = [tf.split(one, counts + counts) for one in tf.unstack(link.all_gather(sent))]
        totals, leftovers = [], []
        for index, (tensor, flat, place) in enumerate(zip(tensors, flats, places, strict=True)):
            total = tf.zeros_like(flat)
            # One replica after the other, none of which has a place twice, so that all replicas round alike.
            for parts in received:
                theirs = tf.bitcast(parts[len(counts) + index], tf.int32)
                total = tf.tensor_scatter_nd_add(total, theirs[:, tf.newaxis], parts[index])
            leftover = tf.tensor_scatter_nd_update(
                flat, place[:, tf.newaxis], tf.zeros([counts[index]], flat.dtype)
            )
            totals.append(tf.reshape(total, tensor.shape))
            leftovers.append(tf.reshape(leftover, tensor.shape))
        return totals, leftovers
