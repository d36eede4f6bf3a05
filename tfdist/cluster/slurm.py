"""SLURM: one process for each task of an `srun` step.

TensorFlow's own resolver sorts the hosts, so that rank 0 may get the address of another host. It needs `nvidia-smi`,
rewrites `CUDA_VISIBLE_DEVICES`, and always listens on port 8888. Here the hosts stay in rank order, the ports follow
from the job's number, and the GPUs are left as SLURM gave them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tfdist.cluster.host_list import expand_host_list, expand_task_counts
from tfdist.cluster.hosts import port_of_job
from tfdist.cluster.spec import ClusterInfo, read_int
from tfdist.errors import ClusterError
from tfdist.log import warn_once

SOURCE = "SLURM"

_STEP_MARKS = ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST")


def is_present(env: Mapping[str, str]) -> bool:
    """Whether SLURM runs this process (also the batch script itself)."""
    return "SLURM_PROCID" in env and ("SLURM_NTASKS" in env or "SLURM_STEP_NUM_TASKS" in env)


def read_cluster(env: Mapping[str, str]) -> ClusterInfo | None:
    """Reads the cluster of the step; None for a single task, and in a batch script outside `srun`.

    Raises:
        ClusterError: a variable is missing or malformed, or SLURM has placed the tasks in an order that this module
            does not know.
    """
    num_processes = read_int(env, _first(env, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"), minimum=1)
    if num_processes == 1:
        return None
    if not any(name in env for name in _STEP_MARKS):
        warn_once(
            f"SLURM: the job has {num_processes} tasks, but this process was not started by srun, so it trains alone. "
            "Start it with `srun python ...`."
        )
        return None
    rank = read_int(env, "SLURM_PROCID", maximum=num_processes - 1)
    nodes = expand_host_list(
        env.get(_first(env, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"), "")
    )
    counts = _task_counts(env, len(nodes), num_processes)
    places = _place(env, counts, num_processes)
    _check_own_place(env, places[rank])
    port = port_of_job(
        env, env.get("SLURM_JOB_ID", env.get("SLURM_JOBID", "")), env.get("SLURM_STEP_ID", "0")
    )
    addresses = tuple(f"{nodes[node]}:{port + local}" for node, local in places)
    return ClusterInfo(workers=addresses, task_index=rank, source=SOURCE)


def _first(env: Mapping[str, str], *names: str) -> str:
    return next((name for name in names if name in env), names[-1])


def _task_counts(env: Mapping[str, str], num_nodes: int, num_processes: int) -> tuple[int, ...]:
    name = _first(env, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    if name in env:
        counts = expand_task_counts(env[name])
    elif num_processes % num_nodes == 0:
        counts = (num_processes // num_nodes,) * num_nodes
    else:
        counts = ()
    if len(counts) != num_nodes or sum(counts) != num_processes:
        raise ClusterError(
            f"SLURM: {name}={env.get(name)!r} does not place {num_processes} tasks on {num_nodes} nodes. "
            "Start with `srun --ntasks-per-node=N`."
        )
    return counts


def _place(env: Mapping[str, str], counts: Sequence[int], num_processes: int) -> list[tuple[int, int]]:
    """Returns the node and the index on that node of every rank."""
    # The first word says how tasks go to nodes. The words after a colon or comma say how they go to sockets.
    method = re.split(r"[:,]", env.get("SLURM_DISTRIBUTION", "block"))[0].lower()
    if method.startswith("plane"):
        size = read_int(env, "SLURM_DIST_PLANESIZE", minimum=1)
    elif method in ("block", "*", "pack", "nopack", ""):
        size = num_processes
    elif method == "cyclic":
        size = 1
    else:
        raise ClusterError(
            f"SLURM: SLURM_DISTRIBUTION={method!r} places the tasks in an order that their environment does "
            "not tell; known: block, cyclic, plane. Start with `srun --distribution=block`."
        )
    places: list[tuple[int, int]] = []
    used = [0] * len(counts)
    while len(places) < num_processes:
        for node, count in enumerate(counts):
            for _ in range(min(size, count - used[node])):
                places.append((node, used[node]))
                used[node] += 1
    return places


def _check_own_place(env: Mapping[str, str], place: tuple[int, int]) -> None:
    for name, expected in zip(("SLURM_NODEID", "SLURM_LOCALID"), place, strict=True):
        if name in env and read_int(env, name) != expected:
            raise ClusterError(
                f"SLURM: this task has {name}={env[name]}, where {expected} was expected from the order of "
                "its ranks, so the addresses of the others cannot be trusted. Start with `srun "
                "--distribution=block`."
            )
