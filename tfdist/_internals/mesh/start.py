"""Starts DTensor and makes the mesh, in one process or over those of a cluster."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.experimental import dtensor
from tensorflow.python.eager import context

from tfdist._internals.mesh.check import check_dtensor
from tfdist._internals.processes.start import join_cluster, start_mesh_cluster
from tfdist.cluster.spec import ClusterInfo
from tfdist.devices import local_devices
from tfdist.errors import ClusterError

# Parts of DTensor that are switched off, and what they do else. It reads these variables when its first function is
# compiled.
_SWITCHED_OFF = {
    "DTENSOR_ENABLE_COMBINE_ALL_REDUCES_OPTIMIZATION": (
        "reads of variables become stale, and momentum, Adam and others train wrong without an error"
    ),
    "DTENSOR_USE_ALL_TO_ALL_RELAYOUT": (
        "a program ends where Booleans are split anew along another axis, as in a maximum or a comparison"
    ),
}


def start_mesh(axes: Mapping[str, int], cluster: ClusterInfo | None, timeout_s: float) -> dtensor.Mesh:
    """Returns the mesh of all devices, after a check that DTensor computes right on it.

    Args:
        axes: Axis name -> size.
        cluster: The processes that take part, or None for this process alone.
        timeout_s: Seconds that the processes may wait for each other.

    Raises:
        ClusterError: The processes cannot share the devices, TensorFlow already runs, or DTensor is not safe to use.
    """
    _switch_off_memory_optimizer()
    mesh = _create(axes, cluster, timeout_s)
    check_dtensor(mesh)
    return mesh


def _create(axes: Mapping[str, int], cluster: ClusterInfo | None, timeout_s: float) -> dtensor.Mesh:
    count = int(np.prod(list(axes.values())))
    for name, otherwise in _SWITCHED_OFF.items():
        given = os.environ.setdefault(name, "0")
        if given != "0":
            raise ClusterError(f"{name}={given} is set, and with it {otherwise}. Unset it, or set it to 0.")
    if cluster is not None:
        cluster.check_trains("mesh")
    num_processes = cluster.num_processes if cluster else 1
    if count % num_processes:
        raise ClusterError(
            f"the mesh {dict(axes)} has {count} devices, which {num_processes} processes cannot share evenly. Start as "
            "many processes as divide it, or change the mesh."
        )
    names = local_devices(count // num_processes)
    kind = names[0].partition(":")[0]
    if cluster is None or num_processes == 1:
        if not dtensor.device_name():  # the system starts once in a process
            dtensor.initialize_accelerator_system(kind)
        return dtensor.create_mesh(list(axes.items()), devices=names)
    join_cluster(cluster, timeout_s)
    start_mesh_cluster(cluster, timeout_s)
    return dtensor.create_distributed_mesh(list(axes.items()), device_type=kind, local_devices=names)


def _switch_off_memory_optimizer() -> None:
    """Switches TensorFlow's memory optimizer off for the functions that are compiled from now on.

    This optimizer computes the memory of a device from the shapes of whole variables, although the device has pieces.
    It logs "Incompatible Matrix dimensions" as an error for each product with a split kernel, which is hundreds of
    lines for a BERT, and its decisions rest on wrong sizes. There is no public switch, and no upstream thread was
    found.
    """
    runtime = context.context()
    config = config_pb2.ConfigProto()
    if runtime._config is not None:
        config.CopyFrom(runtime._config)
    config.graph_options.rewrite_options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    runtime._config = config
    tf.config.optimizer.set_experimental_options({})  # makes this thread read the configuration again
