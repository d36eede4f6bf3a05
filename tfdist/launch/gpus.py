"""Divides the GPUs of a host between its workers, because by default each worker would take the memory of all GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tfdist.errors import ClusterError


def list_gpus(environ: Mapping[str, str], devices: Path = Path("/dev")) -> tuple[str, ...]:
    """Returns the GPUs of this host, as `CUDA_VISIBLE_DEVICES` names them, without loading CUDA."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(str(index) for index, _ in enumerate(devices.glob("nvidia[0-9]*")))
    gpus: list[str] = []
    for name in visible.split(","):
        if not name.strip() or name.strip().startswith("-"):
            break  # CUDA, too, ends the list at the first name that is no device
        gpus.append(name.strip())
    return tuple(gpus)


def share_gpus(
    gpus: tuple[str, ...], num_local: int, devices_per_worker: int | None
) -> tuple[tuple[str, ...], ...]:
    """Returns the GPUs of each local worker, in order; none where the host has none.

    Args:
        gpus: the host's GPUs.
        num_local: number of workers on this host.
        devices_per_worker: GPUs of each, or None for an even share.

    Raises:
        ClusterError: there are fewer GPUs than the workers need.
    """
    if not gpus:
        return ((),) * num_local
    share = devices_per_worker or len(gpus) // num_local
    if share == 0 or share * num_local > len(gpus):
        raise ClusterError(
            f"{num_local} workers of {devices_per_worker or 'at least 1'} devices do not fit on the "
            f"{len(gpus)} GPUs of this host ({', '.join(gpus)}). Start fewer, or hide the GPUs with "
            "CUDA_VISIBLE_DEVICES=-1 to train on the CPU."
        )
    return tuple(gpus[worker * share : (worker + 1) * share] for worker in range(num_local))
