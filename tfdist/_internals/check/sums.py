"""Sums of known vectors over the replicas, which show a network or device that sums wrongly."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def sum_error(strategy: tf.distribute.Strategy) -> float:
    """Returns the largest relative error of a sum over the replicas; in a cluster every process calls it."""
    replicas = strategy.num_replicas_in_sync
    ramp = tf.range(1024, dtype=tf.float32)

    @tf.function
    def summed() -> Any:
        def on_replica() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            number = tf.cast(context.replica_id_in_sync_group, tf.float32)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, ramp + number)

        return strategy.run(on_replica)

    expected = ramp * replicas + replicas * (replicas - 1) / 2
    local = strategy.experimental_local_results(summed())
    return max(float(tf.reduce_max(tf.abs(value - expected) / (1 + tf.abs(expected)))) for value in local)
