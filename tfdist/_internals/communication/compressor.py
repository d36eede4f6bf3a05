"""What a compressor of gradients is, and how many bytes a sum costs without one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist._internals.communication.link import Link

# Smaller tensors, such as biases and the scales of norms, are left alone: they are few bytes.
_FEWEST_NUMBERS = 1024


def ring_bytes(size: int, num_replicas: int, width: int = 4) -> int:
    """Returns the bytes that each replica sends for the sum of `size` numbers of `width` bytes, by a ring."""
    return 2 * (num_replicas - 1) * size * width // num_replicas


class Compressor(ABC):
    """Sums tensors over the replicas approximately, and tells what of each replica's own tensor was not sent.

    What was not sent is added to the next step's gradient (error feedback: Seide et al. 2014; Karimireddy et al. 2019),
    so that over the steps all of it arrives: all that was sent, and what is left, add up to the sum of the gradients.

    Args:
        num_replicas: Over all processes.
    """

    def __init__(self, num_replicas: int) -> None:
        self.num_replicas = num_replicas

    def takes(self, shape: Sequence[int]) -> bool:
        """Returns whether tensors of a shape are compressed: where that saves at least half of the bytes."""
        size = math.prod(shape)
        return size >= _FEWEST_NUMBERS and 2 * self.sent_bytes(shape) <= ring_bytes(size, self.num_replicas)

    def first_state(self, shape: Sequence[int]) -> Mapping[str, np.ndarray]:
        """Returns, by name, what is kept of a variable beside the error, as it is before the first step."""
        return {}

    @abstractmethod
    def sent_bytes(self, shape: Sequence[int]) -> int:
        """Returns the bytes that each replica sends for the sum of tensors of a shape."""

    @abstractmethod
    def sum(
        self, link: Link, tensors: Sequence[tf.Tensor], states: Sequence[Mapping[str, Any]]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Returns sums over the replicas, the same bits in all of them, and what of the own tensors was not sent.

        Args:
            link: To the other replicas.
            tensors: Float32, of static shapes.
            states: For each tensor, variables of what `first_state` names.
        """
