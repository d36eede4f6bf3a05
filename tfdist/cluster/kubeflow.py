"""Kubeflow's PyTorchJob, with pods `JOB-master-0`, `JOB-worker-0`, ... (TFJob sets `TF_CONFIG`)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tfdist.cluster.hosts import number_ports
from tfdist.cluster.spec import ClusterInfo, read_int
from tfdist.cluster.torchrun import master_base_port

SOURCE = "Kubeflow PyTorchJob"

_POD = re.compile(r"(.+)-(?:master|worker)-\d+")


def is_present(env: Mapping[str, str]) -> bool:
    """Whether this is a pod of a PyTorchJob with one process; under torchrun, ranks do not follow the pods."""
    return (
        "KUBERNETES_SERVICE_HOST" in env
        and "RANK" in env
        and "WORLD_SIZE" in env
        and "LOCAL_WORLD_SIZE" not in env
        and "TFDIST_HOSTS" not in env
        and _POD.fullmatch(env.get("HOSTNAME", "")) is not None
    )


def read_cluster(env: Mapping[str, str]) -> ClusterInfo | None:
    """Reads the cluster: rank 0 is the master pod, rank r the pod `worker-(r-1)`; None for one pod.

    Raises:
        ClusterError: a variable is malformed.
    """
    num_processes = read_int(env, "WORLD_SIZE", minimum=1)
    rank = read_int(env, "RANK", maximum=num_processes - 1)
    if num_processes == 1:
        return None
    match = _POD.fullmatch(env["HOSTNAME"])
    job = match[1] if match else ""
    # Each pod has a headless service of its own name, so that every port of it can be reached.
    pods = [f"{job}-master-0", *(f"{job}-worker-{index}" for index in range(num_processes - 1))]
    addresses = number_ports([(pod, 1) for pod in pods], master_base_port(env), SOURCE)
    return ClusterInfo(workers=addresses, task_index=rank, source=SOURCE)
