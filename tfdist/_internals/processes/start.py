"""Starts TensorFlow's coordination service, with a limit on how long it waits for the processes to come.

Stock sets no limit: if one process never starts, the others wait for an hour. And if TensorFlow already runs in a
process, stock says "Collective ops must be configured at program startup" and not what to do about it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.core.protobuf import cluster_pb2, tensorflow_server_pb2
from tensorflow.dtensor.python import accelerator_util
from tensorflow.python.eager import context

from tfdist._internals.processes.coordination import set_default_timeout
from tfdist._internals.processes.end import watch_process_end
from tfdist._internals.processes.roll_call import set_addresses
from tfdist._internals.processes.seed import share_seed
from tfdist.cluster.spec import ClusterInfo
from tfdist.errors import ClusterError
from tfdist.launch.ports import why_not_free
from tfdist.process import set_process


def join_cluster(cluster: ClusterInfo, timeout_s: float) -> None:
    """Notes which process of `cluster` this is, and how long the processes wait for each other, in seconds."""
    set_process(cluster.process_index, cluster.num_processes)
    set_default_timeout(timeout_s)
    set_addresses(cluster.training_addresses)


def begin_together() -> None:
    """Gives all processes one seed, and makes each tell the others how it ends.

    To be called when the processes have found each other.
    """
    share_seed()
    watch_process_end()


def start_cluster(cluster: ClusterInfo, timeout_s: float) -> None:
    """Configures the coordination service of `cluster`; the strategy starts it.

    Raises:
        ClusterError: TensorFlow already runs in this process, or this task's port is taken.
    """
    _configure_coordination(cluster, cluster.training_jobs, timeout_s)


def _configure_coordination(
    cluster: ClusterInfo, jobs: Mapping[str, Sequence[str]], timeout_s: float
) -> None:
    runtime = context.context()
    if runtime._context_handle is not None and runtime.coordination_service is None:
        raise ClusterError(
            "a strategy of several processes must be created before TensorFlow runs, and it runs already: a tensor, "
            "layer, dataset or device list was made before tfdist.create_strategy(...). Make create_strategy the "
            "first call of the script, right after the imports."
        )
    if runtime.coordination_service is not None:
        return
    address = cluster.training_addresses[cluster.process_index]
    _check_port(int(address.rpartition(":")[2]), address)
    milliseconds = int(timeout_s * 1000)
    runtime.configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{'chief' if 'chief' in jobs else 'worker'}/replica:0/task:0",
        cluster_register_timeout_in_ms=milliseconds,
        # A process that is stopped for a moment sends no heartbeat. `processes.watch` finds those that are dead.
        heartbeat_timeout_in_ms=milliseconds,
        # Counts only when TensorFlow destroys its context. The end of Python does not do that: see `processes.end`.
        shutdown_barrier_timeout_in_ms=min(milliseconds, 30_000),
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name=job, num_tasks=len(addresses))
            for job, addresses in jobs.items()
        ],
    )


def start_mesh_cluster(cluster: ClusterInfo, timeout_s: float) -> None:
    """Starts the servers of `cluster` for meshes over all its processes; DTensor's own start has no limit.

    Raises:
        ClusterError: TensorFlow already runs in this process, or this task's port is taken.
    """
    if accelerator_util.is_initialized():
        return
    addresses = cluster.training_addresses
    _configure_coordination(cluster, {"worker": addresses}, timeout_s)
    # DTensor reads these whenever it asks whether it is one client of several.
    os.environ["DTENSOR_JOBS"] = ",".join(addresses)
    os.environ["DTENSOR_CLIENT_ID"] = str(cluster.process_index)
    os.environ["DTENSOR_JOB_NAME"] = "worker"
    runtime = context.context()
    runtime.configure_collective_ops(collective_leader="/job:worker/replica:0/task:0")
    cluster_def = cluster_pb2.ClusterDef()
    cluster_def.job.add(name="worker", tasks=dict(enumerate(addresses)))
    runtime.enable_collective_ops(
        tensorflow_server_pb2.ServerDef(
            cluster=cluster_def,
            default_session_config=context.get_config(),
            job_name="worker",
            task_index=cluster.process_index,
            protocol="grpc",
            port=int(addresses[cluster.process_index].rpartition(":")[2]),
        )
    )
    runtime.ensure_initialized()
    accelerator_util.set_initialized("GPU" if tf.config.list_physical_devices("GPU") else "CPU")


def _check_port(port: int, address: str) -> None:
    reason = why_not_free(port)
    if reason is not None:
        raise ClusterError(
            f"port {port} of this worker's address {address!r} is in use ({reason}). An earlier run may still be "
            "ending; stop it, or give the worker another port."
        )
