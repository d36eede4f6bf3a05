"""`multi_worker_mirrored`: several processes, on one host or many, each with one or more devices."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfdist._internals.communication.options import Compression, Dtype, checked_options
from tfdist._internals.processes import coordination
from tfdist._internals.processes.start import begin_together, join_cluster, start_cluster
from tfdist._internals.processes.watch import shared_step
from tfdist._internals.replica.extended import (
    CollectiveOptions,
    MultiWorkerExtended,
    next_collective_key_base,
)
from tfdist._internals.replica.local.distribution import RoundsDistribution
from tfdist._internals.replica.local.options import read_options
from tfdist.cluster.environments import detect_cluster
from tfdist.cluster.spec import ClusterInfo
from tfdist.cluster.worker_devices import devices_per_worker as devices_from_environment
from tfdist.devices import make_logical_cpus
from tfdist.errors import ClusterError, ConfigError
from tfdist.strategies.base import check_timeout

_IMPLEMENTATIONS = {
    "auto": tf.distribute.experimental.CommunicationImplementation.AUTO,
    "ring": tf.distribute.experimental.CommunicationImplementation.RING,
    "nccl": tf.distribute.experimental.CommunicationImplementation.NCCL,
}


class MultiWorkerMirrored(RoundsDistribution, tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` that works, and gives the one-device result, under Keras 3 `fit`.

    The cluster is found in the environment; see `tfdist.cluster`. Every process runs the same script and creates
    the strategy before any tensor, layer or dataset is made.

    Args:
        devices_per_worker: Devices of each process: GPUs if the host has any, otherwise logical CPU devices. None means
            the number that `tfdist launch --devices-per-worker` gave, or without it all GPUs, or one CPU.
        communication: `"auto"`, `"ring"` or `"nccl"`.
        timeout_s: Seconds that a step, the start-up or a meeting of the processes may wait for a process. A step in
            which all of them are may take ten times as long, since TensorFlow compiles the first.
        local_steps: How many updates each replica makes of its own copy of the weights, from its own gradients, before
            all of them average the weights; see docs/local-steps.md. 1 is synchronous training.
        outer_optimizer: What follows the average: `"average"` nothing, `"slow_momentum"` or `"nesterov"`.
        outer_learning_rate: The step size of the outer update; None for its default.
        outer_momentum: The momentum of the outer update, from 0 to below 1; None for its default.
        random_by_row: Give each row the dropout mask and noise that it gets on one device; see `ReplicaDistribution`.
        communication_dtype: In which dtype float32 gradients travel: `"float32"`, `"bfloat16"` or `"float16"`; the
            result is another than on one device, within that dtype's rounding. See docs/communication.md.
        gradient_compression: `"powersgd"`, `"topk"`, `"sign"` or `"bfloat16"`: fewer bytes, and another result.
        compression_rank: Of PowerSGD's matrices; 4 if it is not given.
        compression_share: The part of a gradient's numbers that top-k sends; 0.01 if it is not given.

    Raises:
        ConfigError: An option has a value that is not allowed.
        ClusterError: There is no cluster, its description does not fit, or TensorFlow already runs.
        WorkerError: A process did not arrive in time, or the processes do not agree.
    """

    name = "multi_worker_mirrored"
    prepares_own_rows = True

    def __init__(
        self,
        devices_per_worker: int | None = None,
        communication: Literal["auto", "ring", "nccl"] = "auto",
        timeout_s: float = 300.0,
        local_steps: int = 1,
        outer_optimizer: Literal["average", "slow_momentum", "nesterov"] = "average",
        outer_learning_rate: float | None = None,
        outer_momentum: float | None = None,
        random_by_row: bool = False,
        communication_dtype: Dtype | None = None,
        gradient_compression: Compression | None = None,
        compression_rank: int | None = None,
        compression_share: float | None = None,
    ) -> None:
        sums = checked_options(communication_dtype, gradient_compression, compression_rank, compression_share)
        if communication not in _IMPLEMENTATIONS:
            raise ConfigError(
                f"communication={communication!r} is not possible; it is one of {list(_IMPLEMENTATIONS)}."
            )
        check_timeout(timeout_s)
        self.random_by_row = random_by_row
        self.local_steps = read_options(local_steps, outer_optimizer, outer_learning_rate, outer_momentum)
        if devices_per_worker is None:
            devices_per_worker = devices_from_environment(os.environ)
        cluster = _training_cluster(detect_cluster(os.environ))
        gpus = len(tf.config.list_physical_devices("GPU"))
        if devices_per_worker is not None:
            _check_devices(devices_per_worker, gpus)
        join_cluster(cluster, timeout_s)
        start_cluster(cluster, timeout_s)
        self._collective_key_base = next_collective_key_base()
        options = CollectiveOptions(implementation=_IMPLEMENTATIONS[communication], timeout_seconds=timeout_s)
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({job: list(addresses) for job, addresses in cluster.training_jobs.items()}),
            task_type=cluster.task_type,
            task_id=cluster.task_index,
            rpc_layer="grpc",
        )
        extended = MultiWorkerExtended(self, resolver, options, devices_per_worker)
        tf.distribute.Strategy.__init__(self, extended)
        coordination.agree("the number of devices of each worker", len(extended.worker_devices))
        coordination.agree("local_steps and its outer options", self.local_steps and list(self.local_steps))
        coordination.agree("how gradients travel", list(sums))
        self.communicate(sums)
        begin_together()

    def of_chief(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the chief's arrays, given in every process arrays of the same shapes and dtypes.

        Raises:
            WorkerError: A process did not arrive.
        """
        found = []
        for array in arrays:
            # Bytes, since collectives take not every dtype. The others give nothing.
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).astype(np.int32)
            whole = self.all_gather_arrays(flat if self.is_chief else flat[:0])[0]
            found.append(whole.astype(np.uint8).view(array.dtype).reshape(array.shape))
        return found

    def all_gather_arrays(self, array: np.ndarray) -> list[np.ndarray]:
        """Returns the arrays that the processes hold, in the order of the processes.

        Args:
            array: The array of this process, of rank 1 and a numeric dtype; the dtype is the same in all processes.

        Raises:
            WorkerError: A process did not arrive.
        """
        sizes = coordination.all_gather_json("sizes of arrays", len(array))

        def piece(context: tf.distribute.experimental.ValueContext) -> np.ndarray:
            # Each process gives its array once, by its first replica.
            is_first = context.replica_id_in_sync_group % len(self.extended.worker_devices) == 0
            return array if is_first else array[:0]

        with shared_step("sum"):
            gathered = self._gathered(self.experimental_distribute_values_from_function(piece))
        whole = self.experimental_local_results(gathered)[0].numpy()
        return np.split(whole, np.cumsum(sizes)[:-1])

    @functools.cached_property
    def _gathered(self) -> Any:
        def in_replica(value: tf.Tensor) -> tf.Tensor:
            # all_gather sends its result to the device of the value. A function's argument has none, and a copy has.
            return tf.distribute.get_replica_context().all_gather(tf.identity(value), axis=0)

        def gather(values: tf.Tensor) -> Any:
            return self.run(in_replica, (values,))

        return tf.function(gather, reduce_retracing=True)


def _training_cluster(cluster: ClusterInfo | None) -> ClusterInfo:
    if cluster is None:
        raise ClusterError(
            "multi_worker_mirrored found no cluster in the environment (TF_CONFIG, SLURM, MPI, torchrun, Kubernetes, "
            "Kubeflow and KERAS_DISTRIBUTION_* were looked at). Start the script with "
            "`tfdist launch --num-workers 2 script.py`, or use 'mirrored' for the devices of one process."
        )
    cluster.check_trains("multi_worker_mirrored")
    return cluster


def _check_devices(devices_per_worker: Any, gpus: int) -> None:
    if not isinstance(devices_per_worker, int) or devices_per_worker < 1:
        raise ConfigError(
            f"devices_per_worker={devices_per_worker!r} is not possible; give a count of at least 1."
        )
    if gpus and devices_per_worker > gpus:
        raise ConfigError(
            f"devices_per_worker={devices_per_worker} GPUs were asked for, but this host has {gpus}. "
            f"Give at most {gpus}."
        )
    if not gpus:
        make_logical_cpus(devices_per_worker)
