"""Sums over replicas: the error of those that no loop can hold, and known vectors that show which ones are wrong."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class SizesVaryError(Exception):
    """A step cannot run several times in one call: what its parts sum has another size each time."""


def sum_error_of(strategy: Any) -> float:
    """Returns the largest relative error of a sum over the replicas of a strategy; every process calls this."""
    replicas, ramp = strategy.num_replicas_in_sync, tf.range(1024, dtype=tf.float32)

    def on_replica() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        number = tf.cast(context.replica_id_in_sync_group, tf.float32)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, ramp + number)

    summed = tf.function(lambda: strategy.run(on_replica), autograph=False)
    expected = ramp * replicas + replicas * (replicas - 1) / 2
    local = strategy.experimental_local_results(summed())
    return max(float(tf.reduce_max(tf.abs(value - expected) / (1 + tf.abs(expected)))) for value in local)
