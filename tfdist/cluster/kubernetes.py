"""A Kubernetes Job or JobSet with `completionMode: Indexed` and a headless service."""

from __future__ import annotations

from collections.abc import Mapping

from tfdist.cluster.hosts import DEFAULT_PORT, number_ports
from tfdist.cluster.spec import ClusterInfo, read_int
from tfdist.errors import ClusterError

SOURCE = "Kubernetes indexed job"


def is_present(env: Mapping[str, str]) -> bool:
    """Whether Kubernetes gave this pod a completion index."""
    return "JOB_COMPLETION_INDEX" in env


def read_cluster(env: Mapping[str, str]) -> ClusterInfo | None:
    """Reads the cluster: pod `NAME-INDEX` of the headless service `TFDIST_SERVICE`; None for one process.

    Kubernetes sets `JOB_COMPLETION_INDEX` and the host name `NAME-INDEX`; the manifest must set `subdomain`,
    `TFDIST_SERVICE` to the same name, and `TFDIST_NUM_PROCESSES` to the number of completions.

    Raises:
        ClusterError: a variable is missing or malformed.
    """
    index = read_int(env, "JOB_COMPLETION_INDEX")
    if env.get("TFDIST_NUM_PROCESSES") == "1":
        return None
    missing = [name for name in ("TFDIST_NUM_PROCESSES", "TFDIST_SERVICE") if not env.get(name)]
    if missing:
        raise ClusterError(
            f"{SOURCE}: pod {index} cannot know the others, as {' and '.join(missing)} is not set. "
            "Set TFDIST_NUM_PROCESSES (the job's completions) and TFDIST_SERVICE (its headless service) in "
            "the pod's env, or TFDIST_NUM_PROCESSES=1 if each pod trains a model of its own."
        )
    num_processes = read_int(env, "TFDIST_NUM_PROCESSES", minimum=1)
    host_name, suffix = env.get("HOSTNAME", "").partition(".")[0], f"-{index}"
    if not host_name.endswith(suffix):
        raise ClusterError(
            f"{SOURCE}: the host name {host_name!r} does not end in {suffix!r}, as the pods of an indexed "
            "job do. Leave the pod's hostname to Kubernetes, or set TF_CONFIG."
        )
    port = DEFAULT_PORT
    if "TFDIST_PORT" in env:
        port = read_int(env, "TFDIST_PORT", minimum=1, maximum=65535)
    name = host_name.removesuffix(suffix)
    hosts = [(f"{name}-{pod}.{env['TFDIST_SERVICE']}", 1) for pod in range(num_processes)]
    return ClusterInfo(workers=number_ports(hosts, port, SOURCE), task_index=index, source=SOURCE)
