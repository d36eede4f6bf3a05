"""`mirrored`: one process, several devices, a replica on each."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfdist._internals.replica.distribution import ReplicaDistribution
from tfdist._internals.replica.extended import MirroredExtended, next_collective_key_base
from tfdist.devices import local_devices


class Mirrored(ReplicaDistribution, tf.distribute.MirroredStrategy):
    """`tf.distribute.MirroredStrategy` that gives the one-device result under Keras 3 `fit`.

    Args:
        devices: A count, a list of names such as `"GPU:0"`, or None for all GPUs of the host. If the host has no GPU,
            a count makes logical CPU devices.
        random_by_row: Give each row the dropout mask and noise that it gets on one device; see `ReplicaDistribution`.

    Raises:
        ConfigError: The host does not have such devices.
        ClusterError: Logical CPU devices are needed but TensorFlow already runs.
    """

    name = "mirrored"

    def __init__(self, devices: int | Sequence[str] | None = None, random_by_row: bool = False) -> None:
        self.random_by_row = random_by_row
        names = local_devices(devices)
        self._collective_key_base = next_collective_key_base()
        tf.distribute.Strategy.__init__(self, MirroredExtended(self, devices=names))
