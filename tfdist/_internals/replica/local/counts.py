"""What each replica counts of a round: the rows that it had, those of all, its steps, and its learning rates."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfdist._internals.contract import Step


class Counts:
    """The numbers of the present round, of which each replica has its own.

    Args:
        strategy: Has the variable.
    """

    def __init__(self, strategy: Any) -> None:
        with strategy.scope():
            self._numbers = tf.Variable(tf.zeros([4], tf.float64), trainable=False)

    def clear(self) -> None:
        """Begins a round, in a replica."""
        self._numbers.assign(tf.zeros([4], tf.float64))

    def add(self, step: Step, learning_rate: Any) -> None:
        """Counts a step, in a replica, before it is made."""
        counted = (step.num_valid, step.num_global, 1, learning_rate)
        self._numbers.assign_add(tf.stack([tf.cast(number, tf.float64) for number in counted]))

    def read(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the replica's part of all rows, and the mean of its learning rates; scalar float64 tensors."""
        rows, all_rows, steps, rates = tf.unstack(tf.convert_to_tensor(self._numbers))
        return rows / all_rows, rates / steps
