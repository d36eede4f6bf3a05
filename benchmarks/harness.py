"""Contestants measured in turn, in one process; medians with spread; JSON with versions and hardware."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleaved(
    contestants: Mapping[str, Callable[[], list[float]]], *, rounds: int, warmup: int = 1
) -> dict[str, list[list[float]]]:
    """Calls every contestant once a round, in alternating order; returns each one's samples by round.

    Other work on the machine then slows all contestants alike, so that ratios within a round hold where times
    do not.

    Args:
        contestants: Name -> function that runs some steps and returns the seconds of each.
        rounds: Rounds that count.
        warmup: Rounds before them, which trace, compile and fill caches.
    """
    samples: dict[str, list[list[float]]] = {name: [] for name in contestants}
    for number in range(warmup + rounds):
        names = list(contestants) if number % 2 else list(reversed(contestants))
        for name in names:
            seconds = contestants[name]()
            if number >= warmup:
                samples[name].append(seconds)
    return samples


def summary(values: list[float]) -> dict[str, float]:
    """Returns the median and the quartiles."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def ratio(samples: Mapping[str, list[list[float]]], name: str, to: str) -> dict[str, float]:
    """Returns the summary over rounds of (median step of `name`) / (median step of `to`)."""
    pairs = zip(samples[name], samples[to], strict=True)
    return summary([statistics.median(one) / statistics.median(other) for one, other in pairs])


def environment() -> dict[str, Any]:
    """Returns the versions and the hardware of this run, and how busy the machine was."""
    import keras
    import tensorflow as tf

    import tfdist

    gpus = tf.config.list_physical_devices("GPU")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "tfdist": tfdist.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", "?") for gpu in gpus],
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def parse_arguments(description: str) -> argparse.Namespace:
    """Returns `smoke` and `output` from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps of tiny models, to see that it runs"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON file")
    return parser.parse_args()


def write(folder: Path, name: str, results: Mapping[str, Any]) -> Path:
    """Writes `folder/name.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"environment": environment(), **results}, indent=1) + "\n")
    return path
