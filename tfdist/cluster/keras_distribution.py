"""Keras's own variables `KERAS_DISTRIBUTION_*`, which have no meaning in Keras on TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping

from tfdist.cluster.spec import ClusterInfo, read_int
from tfdist.errors import ClusterError

SOURCE = "KERAS_DISTRIBUTION_*"


def is_present(env: Mapping[str, str]) -> bool:
    """Whether Keras's number of processes is set."""
    return "KERAS_DISTRIBUTION_NUM_PROCESSES" in env


def read_cluster(env: Mapping[str, str]) -> ClusterInfo | None:
    """Reads the cluster; None for one process.

    Raises:
        ClusterError: a variable is missing or malformed, or not every process has an address.
    """
    num_processes = read_int(env, "KERAS_DISTRIBUTION_NUM_PROCESSES", minimum=1)
    if num_processes == 1:
        return None
    index = read_int(env, "KERAS_DISTRIBUTION_PROCESS_ID")
    text = env.get("KERAS_DISTRIBUTION_JOB_ADDRESSES", "")
    addresses = tuple(address.strip() for address in text.split(",") if address.strip())
    if len(addresses) != num_processes:
        raise ClusterError(
            f"KERAS_DISTRIBUTION_JOB_ADDRESSES has {len(addresses)} addresses ({text!r}), but "
            f"KERAS_DISTRIBUTION_NUM_PROCESSES is {num_processes}; TensorFlow needs the address of every "
            "process (other backends do with the coordinator's). List them all as host:port, separated by "
            "commas."
        )
    return ClusterInfo(workers=addresses, task_index=index, source=SOURCE)
