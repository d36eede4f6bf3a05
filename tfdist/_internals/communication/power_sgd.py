"""PowerSGD (Vogels, Karimireddy, Jaggi 2019): each gradient as a product of two thin matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist._internals.communication.compressor import Compressor, ring_bytes
from tfdist._internals.communication.link import Link


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Returns rows and columns of a tensor as a matrix, divided between two dimensions so that their sum is least."""
    cuts = [(math.prod(shape[:at]), math.prod(shape[at:])) for at in range(len(shape) + 1)]
    return min(cuts, key=sum)


class PowerSGD(Compressor):
    """One step of power iteration on the sum of the gradients, begun where the last one ended (algorithm 1).

    With M the own gradient as a matrix and Q kept from the last step: P = sum of M Q; P is made orthonormal; the sum of
    Mᵀ P is the next Q; P Qᵀ stands for the sum of M. Both sums are of thin matrices, by an ordinary all-reduce. What a
    replica has not sent is M - P (Mᵀ P)ᵀ.

    Args:
        num_replicas: Over all processes.
        rank: The columns of P and Q.
    """

    def __init__(self, num_replicas: int, rank: int) -> None:
        super().__init__(num_replicas)
        self.rank = rank

    def takes(self, shape: Sequence[int]) -> bool:
        return self.rank <= min(matrix_shape(shape)) and super().takes(shape)

    def sent_bytes(self, shape: Sequence[int]) -> int:
        return ring_bytes(self.rank * sum(matrix_shape(shape)), self.num_replicas)

    def first_state(self, shape: Sequence[int]) -> Mapping[str, np.ndarray]:
        # All replicas begin with the same numbers, whatever the seed of the run.
        numbers = np.random.default_rng(0)
        return {"factor": numbers.standard_normal((matrix_shape(shape)[1], self.rank)).astype(np.float32)}

    def sum(
        self, link: Link, tensors: Sequence[tf.Tensor], states: Sequence[Mapping[str, Any]]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        factors = [state["factor"] for state in states]
        matrices = [tf.reshape(tensor, matrix_shape(tensor.shape.as_list())) for tensor in tensors]
        lefts = link.all_reduce(
            [tf.matmul(matrix, factor) for matrix, factor in zip(matrices, factors, strict=True)]
        )
        lefts = [tf.linalg.qr(left).q for left in lefts]
        owns = [
            link.rounded(tf.matmul(matrix, left, transpose_a=True))
            for matrix, left in zip(matrices, lefts, strict=True)
        ]
        rights = link.all_reduce(owns)
        totals, leftovers = [], []
        for tensor, matrix, factor, left, own, right in zip(
            tensors, matrices, factors, lefts, owns, rights, strict=True
        ):
            factor.assign(right)
            totals.append(tf.reshape(tf.matmul(left, right, transpose_b=True), tensor.shape))
            leftover = matrix - tf.matmul(left, own, transpose_b=True)
            leftovers.append(tf.reshape(leftover, tensor.shape))
        return totals, leftovers
