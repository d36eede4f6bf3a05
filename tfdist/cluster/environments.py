"""Finds the cluster that this process was started in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tfdist.cluster import keras_distribution, kubeflow, kubernetes, mpi, slurm, tf_config, torchrun
from tfdist.cluster.spec import ClusterInfo
from tfdist.log import inform_once


class Environment(Protocol):
    """One way in which processes are started; a module or an object with these functions."""

    @property
    def SOURCE(self) -> str: ...  # noqa: D102, N802 - a constant of each module

    def is_present(self, env: Mapping[str, str], /) -> bool:
        """Whether `env` was made by this environment."""

    def read_cluster(self, env: Mapping[str, str], /) -> ClusterInfo | None:
        """Reads the cluster, or None for a single process."""


# Explicit descriptions come first, and then the innermost launcher: torchrun or mpirun may run inside a SLURM job, and
# they inherit its variables. PMI comes after SLURM, because srun sets PMI's variables too.
_ENVIRONMENTS: tuple[Environment, ...] = (
    tf_config,
    keras_distribution,
    kubeflow,
    torchrun,
    mpi.OPEN_MPI,
    slurm,
    mpi.PMI,
    kubernetes,
)


def detect_cluster(env: Mapping[str, str]) -> ClusterInfo | None:
    """Reads the cluster from the first environment that is present; the others are not looked at.

    Args:
        env: environment variables, usually `os.environ`.

    Returns:
        The cluster, or None if this is a single process. A cluster of one process is returned only where
        `TF_CONFIG` describes it explicitly.

    Raises:
        ClusterError: the environment that was found is incomplete or contradicts itself.
    """
    present = [environment for environment in _ENVIRONMENTS if environment.is_present(env)]
    if not present:
        return None
    chosen, *ignored = present
    cluster = chosen.read_cluster(env)
    also = f" (not used: {', '.join(environment.SOURCE for environment in ignored)})" if ignored else ""
    if cluster is None:
        inform_once(f"cluster: a single process, says {chosen.SOURCE}{also}")
    else:
        inform_once(
            f"cluster: {cluster.task_type} {cluster.task_index} of {cluster.num_processes} training processes, from "
            f"{chosen.SOURCE}{also}"
        )
    return cluster
