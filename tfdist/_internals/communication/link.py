"""What a replica exchanges with the others in a compiled step, by TensorFlow's collectives.

`ReplicaContext.all_gather` asks for the shapes of all replicas first, in a collective of its own. Here all replicas
have the same shape, so that the launcher below it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import collective_ops

# Sums tensors over the replicas.
AllReduce = Callable[[Sequence[Any]], list[Any]]


class Link:
    """Exchanges tensors; of the same shapes, and in the same order, in all replicas. Made in a replica's context.

    Args:
        all_reduce: Sums tensors over the replicas.

    Attributes:
        all_reduce: As given.
        rounded: Returns a tensor as `all_reduce` sends it.
        num_replicas: Over all processes.
    """

    rounded: Callable[[tf.Tensor], tf.Tensor] = staticmethod(tf.identity)

    def __init__(self, all_reduce: AllReduce) -> None:
        context = tf.distribute.get_replica_context()
        extended = context.strategy.extended
        operations = getattr(extended, "_collective_ops", None) or extended._cross_device_ops
        self.all_reduce = all_reduce
        self.num_replicas: int = context.num_replicas_in_sync
        self._launcher = operations._launchers[context._replica_id]

    def all_gather(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the float32 vectors of all replicas, of shape `(replicas, size)`.

        Args:
            value: A float32 vector; it may hold the bits of anything, since nothing is computed with it.
        """
        gathered = self._launcher._all_gather(value[tf.newaxis], None)
        return tf.ensure_shape(gathered, [self.num_replicas, *value.shape])

    def all_to_all(self, value: tf.Tensor) -> tf.Tensor:
        """Returns row `i` of every replica in replica `i`, of shape `(replicas, size)`.

        Args:
            value: A float32 tensor of that shape; it may hold the bits of anything.
        """
        launcher = self._launcher
        options = launcher._options.merge(None)
        with tf.device(launcher._device):
            received = collective_ops.all_to_all_v2(
                value,
                launcher._group_size,
                launcher._group_key,
                launcher._next_instance_key(),
                communication_hint=options.implementation.value,
                timeout=options.timeout_seconds,
                ordering_token=launcher._get_ordering_token(),
            )
        return tf.ensure_shape(received, value.shape)


def flattened(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the numbers of tensors one after the other, as a vector."""
    return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], 0)


def unflattened(vector: tf.Tensor, like: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns tensors of static shapes whose numbers stand in a vector one after the other."""
    parts = tf.split(vector, [tensor.shape.num_elements() for tensor in like])
    return [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def padded(vector: tf.Tensor, multiple: int) -> tf.Tensor:
    """Returns a vector of static size with zeros behind it, so that its size is a multiple."""
    missing = -vector.shape[0] % multiple
    return tf.pad(vector, [[0, missing]]) if missing else vector
