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

    One program runs on all devices: to Keras there is one replica, the whole batch. Variables are made in their
    layout, piece by piece; DTensor puts the collectives where layouts ask for them.

    Args:
        mesh: Axis -> size, of the axes `batch` and `model`, as `{"batch": 2, "model": 2}` or `"batch=2,model=2"`; or a
            `keras.distribution.DeviceMesh`, `DataParallel` or `ModelParallel`, which brings its `LayoutMap`.
        layout_map: Regular expression on `variable.path` -> the axis, or None, of each dimension; a
            `keras.distribution.LayoutMap`; `"auto"` for the split of transformers by name and rank (Megatron-LM,
            section 3).
        shard_optimizer: Split the optimizer's state over the batch axis too (ZeRO-1, Rajbhandari et al., 2020).
        shard_weights: Split weights and gradients over the batch axis too, gathered where they are used (ZeRO-3).
        timeout_s: Seconds that a start-up, a step or a meeting of several processes may take.
        random_by_row: Give each row the dropout mask and noise that it gets on one device, at the price of drawing for
            the whole batch on every device; else each draws for its own part.

    Raises:
        ConfigError: A mesh or rule that does not fit.
        ClusterError: Logical CPU devices are needed and TensorFlow already runs, or DTensor is not safe to use.
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
