"""Two strategies that stand outside of the package, as a user would add them: registered by name, no file edited.

`gathering` has a replica on each device, and they exchange by gathering what all have instead of by all-reduces.
`padding` has one, whose batches always have one size. Neither is known to anything in the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

import tfdist
from tfdist.parity.topologies import Topology, register_topology
from tfdist.strategies.base import ReplicaDistribution, ReplicaStep
from tfdist.strategies.mirrored import Mirrored


class GatheringStep(ReplicaStep):
    """Sums by gathering the values of all replicas and adding them up."""

    def sum(self, values: Sequence[Any]) -> list[Any]:
        context = tf.distribute.get_replica_context()
        dense = [tf.convert_to_tensor(value) for value in values]
        return [
            tf.reduce_sum(context.all_gather(tf.expand_dims(tf.identity(value), 0), axis=0), axis=0)
            for value in dense
        ]


class Gathering(Mirrored):
    """Replicas that exchange by gathering."""

    name = "gathering"
    step_class = GatheringStep


class Padding(ReplicaDistribution, tf.distribute.OneDeviceStrategy):
    """One replica whose batches are padded to one size, as an accelerator that compiles wants them."""

    name = "padding"
    pads_batches = True

    def __init__(self, device: str = "CPU:0") -> None:
        tf.distribute.OneDeviceStrategy.__init__(self, device)


tfdist.register_strategy("gathering", Gathering)
tfdist.register_strategy("padding", Padding)
register_topology(Topology("gathering_2", "gathering", {"devices": 2}, devices=2))
register_topology(Topology("padding_1", "padding"))
