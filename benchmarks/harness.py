"""Contestants measured in turn, in one process; medians with spread; JSON with versions and hardware."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfdist.bench.figures import ratio, summary
from tfdist.bench.machine import environment

__all__ = ["environment", "interleaved", "parse_arguments", "ratio", "summary", "write"]

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
