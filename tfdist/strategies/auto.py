"""`auto`: the strategy that fits the cluster in the environment and the devices of this host."""

from __future__ import annotations

import os
from collections.abc import Callable

import tensorflow as tf

from tfdist.cluster.environments import detect_cluster
from tfdist.log import LOGGER
from tfdist.strategies.mirrored import Mirrored
from tfdist.strategies.multi_worker_mirrored import MultiWorkerMirrored
from tfdist.strategies.one_device import one_device


def auto() -> tf.distribute.Strategy:
    """Returns `multi_worker_mirrored` in a cluster, `mirrored` with several GPUs, and otherwise `one_device`.

    Raises:
        ClusterError: The description of the cluster does not fit, or TensorFlow already runs.
    """
    cluster = detect_cluster(os.environ)
    gpus = len(tf.config.list_physical_devices("GPU"))
    build: Callable[[], tf.distribute.Strategy]
    if cluster is not None and cluster.num_processes > 1:
        name, build = "multi_worker_mirrored", MultiWorkerMirrored
        why = f"{cluster.num_processes} processes, from {cluster.source}"
    elif gpus > 1:
        name, build, why = "mirrored", Mirrored, f"{gpus} GPUs"
    else:
        name, build, why = "one_device", one_device, "one process and no second GPU"
    LOGGER.info("strategy auto: %s (%s)", name, why)
    return build()
