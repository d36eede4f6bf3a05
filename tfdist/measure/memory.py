"""Memory that this process and its accelerators use."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import tensorflow as tf

_STATM = Path("/proc/self/statm")
_GIB = 2**30


def memory_gib() -> dict[str, float]:
    """Returns tag -> GiB: resident memory of the process, and the peak of each accelerator that reports one.

    On a system without /proc (macOS), the value is the peak of the process in place of its present memory.
    """
    if _STATM.exists():
        scalars = {"memory/process_gib": int(_STATM.read_text().split()[1]) * resource.getpagesize() / _GIB}
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        scalars = {
            "memory/process_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
        }
    for kind in ("GPU", "TPU"):
        for device in tf.config.list_logical_devices(kind):
            index = device.name.rsplit(":", 1)[1]
            try:
                peak = tf.config.experimental.get_memory_info(f"{kind}:{index}")["peak"]
            except (ValueError, tf.errors.OpError):  # this device keeps no count
                continue
            scalars[f"memory/{kind.lower()}_{index}_peak_gib"] = peak / _GIB
    return scalars
