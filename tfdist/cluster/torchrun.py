"""torchrun's variables `RANK`, `WORLD_SIZE`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`."""

from __future__ import annotations

from collections.abc import Mapping

from tfdist.cluster.hosts import DEFAULT_PORT, cluster_from_rank
from tfdist.cluster.spec import ClusterInfo, read_int

SOURCE = "RANK/WORLD_SIZE"

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


def is_present(env: Mapping[str, str]) -> bool:
    """Whether a torchrun-like launcher gave this process a rank."""
    return "RANK" in env and "WORLD_SIZE" in env


def read_cluster(env: Mapping[str, str]) -> ClusterInfo | None:
    """Reads the cluster: all ranks on one host, or the hosts of `TFDIST_HOSTS`; None for one process.

    Raises:
        ClusterError: a variable is malformed, or the ranks are on hosts that nothing names.
    """
    num_processes = read_int(env, "WORLD_SIZE", minimum=1)
    rank = read_int(env, "RANK", maximum=num_processes - 1)
    num_local = read_int(env, "LOCAL_WORLD_SIZE", minimum=1) if "LOCAL_WORLD_SIZE" in env else None
    if num_local is None and env.get("MASTER_ADDR") in _LOOPBACK:
        num_local = num_processes  # a loopback address can only be shared by processes of one host
    return cluster_from_rank(
        env,
        rank=rank,
        num_processes=num_processes,
        num_local=num_local,
        base_port=master_base_port(env),
        source=SOURCE,
        cure=", or start with `tfdist launch --hosts` in place of torchrun",
    )


def master_base_port(env: Mapping[str, str]) -> int:
    """Returns `TFDIST_PORT`, or else the port after `MASTER_PORT`; on that one torchrun's own store listens."""
    if "TFDIST_PORT" in env:
        return read_int(env, "TFDIST_PORT", minimum=1, maximum=65535)
    if "MASTER_PORT" in env:
        return read_int(env, "MASTER_PORT", minimum=1, maximum=65534) + 1
    return DEFAULT_PORT
