"""The command and environment with which each worker of a host is started; nothing is started here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfdist.cluster.spec import ClusterInfo
from tfdist.cluster.worker_devices import DEVICES_PER_WORKER
from tfdist.launch.gpus import share_gpus
from tfdist.launch.start_up_lines import LOG_LEVEL, QUIET_LEVEL, hides_start_up_lines


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """One worker process.

    Attributes:
        process_index: its index among all of its role in the run.
        command: program and arguments.
        env: environment variables to add to the launcher's own.
        role: what it is: a worker, or a process of a data service.
    """

    process_index: int
    command: tuple[str, ...]
    env: Mapping[str, str]
    role: str = "worker"

    @property
    def name(self) -> str:
        """The name that stands before its output."""
        return f"{self.role} {self.process_index}"

    def to_shell(self) -> str:
        """Returns a shell command that starts this worker by hand."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.env.items()]
        return " ".join([*variables, shlex.join(self.command)])


def plan_workers(
    addresses: Sequence[str],
    local: Sequence[int],
    command: Sequence[str],
    *,
    num_cpus: int,
    environ: Mapping[str, str],
    gpus: tuple[str, ...] = (),
    devices_per_worker: int | None = None,
) -> tuple[WorkerPlan, ...]:
    """Plans the workers of one host.

    Args:
        addresses: `host:port` of all workers of the run, in order.
        local: indices of the workers to start on this host.
        command: program and arguments of every worker.
        num_cpus: cores that the workers of this host share.
        environ: the launcher's environment. Its settings of threads and of TensorFlow's log are left as they are.
        gpus: GPUs that the workers of this host share, as `CUDA_VISIBLE_DEVICES` names them.
        devices_per_worker: devices that each worker uses, or None for its own choice.

    Raises:
        ClusterError: an address is malformed or given twice, or the GPUs do not suffice.
    """
    shared = {name: value for name, value in _threads(num_cpus, len(local), devices_per_worker or 1).items()}
    shared = {name: value for name, value in shared.items() if name not in environ}
    shared["PYTHONUNBUFFERED"] = "1"  # with a buffer, the last lines of a killed worker would be lost
    if hides_start_up_lines(environ):
        shared[LOG_LEVEL] = QUIET_LEVEL
    if devices_per_worker is not None:
        shared[DEVICES_PER_WORKER] = str(devices_per_worker)
    plans = []
    for index, own_gpus in zip(local, share_gpus(gpus, len(local), devices_per_worker), strict=True):
        cluster = ClusterInfo(workers=tuple(addresses), task_index=index, source="tfdist launch")
        env = {"TF_CONFIG": cluster.to_tf_config(), **shared}
        if own_gpus:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(own_gpus)
        plans.append(WorkerPlan(process_index=index, command=tuple(command), env=env))
    return tuple(plans)


def _threads(num_cpus: int, num_local: int, num_devices: int) -> dict[str, str]:
    """Divides the cores between the workers, because by default every process would take all cores."""
    cores = max(1, num_cpus // num_local)
    # A collective may hold one inter-op thread for each device until the other workers arrive. The rest of the program
    # needs threads meanwhile.
    inter_op = max(cores, 2 + 2 * num_devices)
    return {
        "TF_NUM_INTRAOP_THREADS": str(cores),
        "TF_NUM_INTEROP_THREADS": str(inter_op),
        "OMP_NUM_THREADS": str(cores),
        "TFDIST_DATA_THREADS": str(cores),
    }
