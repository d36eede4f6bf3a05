"""`mirrored`: one process, several devices, a replica on each."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfdist._internals.communication.options import Compression, Dtype, checked_options
from tfdist._internals.replica.distribution import ReplicaDistribution
from tfdist._internals.replica.extended import MirroredExtended, next_collective_key_base
from tfdist.devices import local_devices


class Mirrored(ReplicaDistribution, tf.distribute.MirroredStrategy):
    """`tf.distribute.MirroredStrategy` that gives the one-device result under Keras 3 `fit`.

    Args:
        devices: A count, a list of names such as `"GPU:0"`, or None for all GPUs of the host. If the host has no GPU,
            a count makes logical CPU devices.
        random_by_row: Give each row the dropout mask and noise that it gets on one device; see `ReplicaDistribution`.
        communication_dtype: In which dtype float32 gradients travel: `"float32"`, `"bfloat16"` or `"float16"`; the
            result is another than on one device, within that dtype's rounding. See docs/communication.md.
        gradient_compression: `"powersgd"`, `"topk"`, `"sign"` or `"bfloat16"`: fewer bytes, and another result.
        compression_rank: Of PowerSGD's matrices; 4 if it is not given.
        compression_share: The part of a gradient's numbers that top-k sends; 0.01 if it is not given.

    Raises:
        ConfigError: The host does not have such devices, or an option has a value that is not allowed.
        ClusterError: Logical CPU devices are needed but TensorFlow already runs.
    """

    name = "mirrored"

    def __init__(
        self,
        devices: int | Sequence[str] | None = None,
        random_by_row: bool = False,
        gradient_compression: Compression | None = None,
        compression_rank: int | None = None,
        compression_share: float | None = None,
        communication_dtype: Dtype | None = None,
    ) -> None:
        self.random_by_row = random_by_row
        options = checked_options(
            communication_dtype, gradient_compression, compression_rank, compression_share
        )
        names = local_devices(devices)
        self._collective_key_base = next_collective_key_base()
        tf.distribute.Strategy.__init__(self, MirroredExtended(self, devices=names))
        self.communicate(options)
