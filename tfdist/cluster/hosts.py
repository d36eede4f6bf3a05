"""Finds the addresses of all processes where the environment tells a process only its own rank."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

from tfdist.cluster.spec import ClusterInfo, check_address, read_int
from tfdist.errors import ClusterError

# Below Linux's ephemeral ports (32768 and up), so that no outgoing connection takes one by chance.
_FIRST_PORT, _PORT_BLOCKS, _PORTS_PER_JOB = 12000, 625, 32
DEFAULT_PORT = 12355

# `host` or `host:slots`; an IPv6 address stands in brackets.
_HOST_SLOTS = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d+))?")


def parse_hosts(text: str, source: str, num_processes: int | None = None) -> tuple[tuple[str, int], ...]:
    """Reads `a:2,b:2` into pairs of host and number of workers.

    Without `:N`, a host has an even share of `num_processes`, or one worker if that is not given.

    Raises:
        ClusterError: an item is malformed, a host comes twice, or the workers do not add up to
            `num_processes`.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    share = 1
    if num_processes is not None and items and num_processes % len(items) == 0:
        share = num_processes // len(items)
    hosts = []
    for item in items:
        match = _HOST_SLOTS.fullmatch(item)
        slots = int(match[2]) if match and match[2] else share
        if match is None or slots < 1:
            raise ClusterError(
                f"{source}: {item!r} is no host; allowed: NAME or NAME:WORKERS with at least 1 worker. "
                "Write e.g. node1:2,node2:2."
            )
        check_address(f"{match[1]}:1", source)
        hosts.append((match[1], slots))
    names = [name for name, _ in hosts]
    if len(set(names)) < len(names):
        raise ClusterError(f"{source}: a host is given twice in {text!r}. Name it once, as host:workers.")
    total = sum(slots for _, slots in hosts)
    if num_processes is not None and total != num_processes:
        raise ClusterError(
            f"{source}: {text!r} has {total} workers on {len(hosts)} hosts, but the run has {num_processes}. "
            "Make the numbers after the colons add up."
        )
    return tuple(hosts)


def number_ports(hosts: Sequence[tuple[str, int]], base_port: int, source: str) -> tuple[str, ...]:
    """Returns the address of every worker: on each host, `base_port` plus the worker's local index.

    Raises:
        ClusterError: a port would lie above 65535.
    """
    highest = base_port + max(slots for _, slots in hosts) - 1
    if not 1 <= base_port <= highest <= 65535:
        raise ClusterError(
            f"{source}: ports {base_port} to {highest} are not within 1 to 65535. Choose a lower base port "
            "(TFDIST_PORT)."
        )
    return tuple(f"{host}:{base_port + local}" for host, slots in hosts for local in range(slots))


def port_of_job(env: Mapping[str, str], *job_ids: str) -> int:
    """Returns a base port that all processes of a job agree on without talking.

    `TFDIST_PORT` wins. Without it, neighbouring job numbers get separate blocks of 32 ports.
    """
    if "TFDIST_PORT" in env:
        return read_int(env, "TFDIST_PORT", minimum=1, maximum=65535)
    if not any(job_ids):
        return DEFAULT_PORT
    numbers = [int(job) if job.isdecimal() else zlib.crc32(job.encode()) for job in job_ids]
    block = sum(number * factor for number, factor in zip(numbers, (1, 97, 311), strict=False)) % _PORT_BLOCKS
    return _FIRST_PORT + block * _PORTS_PER_JOB


def cluster_from_rank(
    env: Mapping[str, str],
    *,
    rank: int,
    num_processes: int,
    num_local: int | None,
    base_port: int,
    source: str,
    cure: str,
) -> ClusterInfo | None:
    """Builds the cluster from ranks: on one host, or on the hosts of `TFDIST_HOSTS` in rank order.

    Args:
        env: the environment.
        rank: rank of this process.
        num_processes: number of all processes.
        num_local: number of processes on this host, or None if unknown.
        base_port: port of the first process of each host.
        source: name of the environment, for messages.
        cure: what the user can do besides, if the hosts are unknown; for the message.

    Returns:
        The cluster, or None for a single process.

    Raises:
        ClusterError: the processes are on several hosts, and nothing tells their names.
    """
    if num_processes == 1:
        return None
    if num_local is not None and num_processes % num_local:
        raise ClusterError(
            f"{source}: {num_local} local processes do not divide the {num_processes} of the run."
        )
    if "TFDIST_HOSTS" in env:
        hosts = parse_hosts(env["TFDIST_HOSTS"], "TFDIST_HOSTS", num_processes)
    elif num_local == num_processes:
        hosts = (("127.0.0.1", num_processes),)
    else:
        raise ClusterError(
            f"{source}: rank {rank} of {num_processes} is known, but not the hosts of the other ranks, and "
            "TensorFlow needs all addresses (MASTER_ADDR is only that of rank 0). Set "
            f"TFDIST_HOSTS=host0:WORKERS,host1:WORKERS in rank order on every host{cure}."
        )
    return ClusterInfo(workers=number_ports(hosts, base_port, source), task_index=rank, source=source)
