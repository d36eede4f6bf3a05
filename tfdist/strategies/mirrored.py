"""`mirrored`: one process, several devices, a replica on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from tfdist._internals.communication.options import Compression, Dtype, checked_options
from tfdist._internals.replica.extended import MirroredExtended, next_collective_key_base
from tfdist._internals.replica.local.distribution import RoundsDistribution
from tfdist._internals.replica.local.options import read_options
from tfdist.devices import local_devices


class Mirrored(RoundsDistribution, tf.distribute.MirroredStrategy):
    """`tf.distribute.MirroredStrategy` that gives the one-device result under Keras 3 `fit`.

    Args:
        devices: A count, a list of names such as `"GPU:0"`, or None for all GPUs of the host. If the host has no GPU,
            a count makes logical CPU devices.
        random_by_row: Give each row the dropout mask and noise that it gets on one device; see `ReplicaDistribution`.
        local_steps: How many updates each replica makes of its own copy of the weights, from its own gradients, before
            all of them average the weights; see docs/local-steps.md. 1 is synchronous training.
        outer_optimizer: What follows the average: `"average"` nothing, `"slow_momentum"` or `"nesterov"`.
        outer_learning_rate: The step size of the outer update; None for its default.
        outer_momentum: The momentum of the outer update, from 0 to below 1; None for its default.
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
        local_steps: int = 1,
        outer_optimizer: Literal["average", "slow_momentum", "nesterov"] = "average",
        outer_learning_rate: float | None = None,
        outer_momentum: float | None = None,
    ) -> None:
        self.random_by_row = random_by_row
        options = checked_options(
            communication_dtype, gradient_compression, compression_rank, compression_share
        )
        self.local_steps = read_options(local_steps, outer_optimizer, outer_learning_rate, outer_momentum)
        names = local_devices(devices)
        self._collective_key_base = next_collective_key_base()
        tf.distribute.Strategy.__init__(self, MirroredExtended(self, devices=names))
        self.communicate(options)
