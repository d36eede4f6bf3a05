"""Processes started by `mpirun` of Open MPI, or by MPICH, Intel MPI and MVAPICH (PMI)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfdist.cluster.hosts import cluster_from_rank, port_of_job
from tfdist.cluster.spec import ClusterInfo, read_int
from tfdist.cluster.torchrun import master_base_port


@dataclass(frozen=True)
class MpiEnvironment:
    """One MPI's names for rank, size, local size and job."""

    SOURCE: str
    rank: str
    size: str
    local_size: tuple[str, ...]
    job: tuple[str, ...]

    def is_present(self, env: Mapping[str, str]) -> bool:
        """Whether this MPI started the process."""
        return self.rank in env and self.size in env

    def read_cluster(self, env: Mapping[str, str]) -> ClusterInfo | None:
        """Reads the cluster: all ranks on one host, or the hosts of `TFDIST_HOSTS`; None for one process.

        Raises:
            ClusterError: a variable is malformed, or the ranks are on hosts that nothing names.
        """
        num_processes = read_int(env, self.size, minimum=1)
        local_size = next((name for name in self.local_size if name in env), None)
        job = next((env[name] for name in self.job if name in env), "")
        return cluster_from_rank(
            env,
            rank=read_int(env, self.rank, maximum=num_processes - 1),
            num_processes=num_processes,
            num_local=read_int(env, local_size, minimum=1) if local_size else None,
            base_port=master_base_port(env) if "MASTER_PORT" in env else port_of_job(env, job),
            source=self.SOURCE,
            cure=" (mpirun -x TFDIST_HOSTS, ranks by slot)",
        )


OPEN_MPI = MpiEnvironment(
    SOURCE="Open MPI",
    rank="OMPI_COMM_WORLD_RANK",
    size="OMPI_COMM_WORLD_SIZE",
    local_size=("OMPI_COMM_WORLD_LOCAL_SIZE",),
    job=("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
)
PMI = MpiEnvironment(
    SOURCE="PMI",
    rank="PMI_RANK",
    size="PMI_SIZE",
    local_size=("MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE"),
    job=("PMI_JOBID",),
)
