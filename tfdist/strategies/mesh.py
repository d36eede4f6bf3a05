"""`mesh`: one model over a grid of devices, split over the batch and within its layers, by TensorFlow's DTensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfdist._internals.mesh.distribution import MeshDistribution
from tfdist._internals.mesh.start import start_mesh
from tfdist._internals.processes.coordination import agree
from tfdist._internals.processes.start import begin_together
from tfdist.cluster.environments import detect_cluster
from tfdist.sharding.placement import Placement
from tfdist.strategies.base import check_timeout


class Mesh(MeshDistribution, tf.distribute.Strategy):
    """Data and tensor parallelism, and sharded state, under plain Keras `fit`.

    One program runs on all devices. To Keras there is one replica, which has the whole batch. Variables are made in
    their layout, piece by piece, and DTensor adds the collectives that the layouts need.

    Args:
        mesh: Axis -> size, for the axes `batch` and `model`, as `{"batch": 2, "model": 2}` or `"batch=2,model=2"`. Or a
            `keras.distribution.DeviceMesh`, `DataParallel` or `ModelParallel`; the last brings its `LayoutMap`.
        layout_map: Regular expression on `variable.path` -> the axis, or None, of each dimension; or a
            `keras.distribution.LayoutMap`. `"auto"` splits transformers by name and rank, as Megatron-LM does (Shoeybi
            et al., 2019, section 3), and of any other model each matrix by its last dimension that divides.
        shard_optimizer: Split the optimizer's state over the batch axis too (ZeRO-1, Rajbhandari et al., 2020).
        shard_weights: Split weights and gradients over the batch axis too, and gather weights where they are used
            (ZeRO-3).
        timeout_s: Seconds that a start-up, a step or a meeting of several processes may take.
        random_by_row: Give each row the dropout mask and noise that it gets on one device. Every device then draws for
            the whole batch, and otherwise for its own rows.

    Raises:
        ConfigError: A mesh or a rule does not fit.
        ClusterError: Logical CPU devices are needed but TensorFlow already runs, or DTensor is not safe to use.
        WorkerError: A process did not arrive in time, or the processes do not agree.
    """

    name = "mesh"

    def __init__(
        self,
        mesh: Mapping[str, int] | str | Any,
        layout_map: Any = "auto",
        shard_optimizer: bool = False,
        shard_weights: bool = False,
        timeout_s: float = 300.0,
        random_by_row: bool = False,
    ) -> None:
        placement = Placement.create(mesh, layout_map, shard_optimizer, shard_weights)
        check_timeout(timeout_s)
        devices = start_mesh(placement.mesh, detect_cluster(os.environ), timeout_s)
        super().__init__(devices, placement, timeout_s, random_by_row)
        if self.num_processes > 1:
            agree("the mesh", [self.axes, shard_optimizer, shard_weights, random_by_row])
            begin_together()
