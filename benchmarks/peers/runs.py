"""Whole runs over several seeds, one after the other, and their scores."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.create import Created
from tfdist.bench.process import Contestant, ContestantError

# Starts the contestant of that name with a seed; it writes its logits to the file.
Start = Callable[[str, int, Path], Contestant]


def over_seeds(
    names: Sequence[str],
    start: Start,
    created: Created,
    seeds: int,
    *,
    known: Mapping[str, Any],
    keep: Callable[[Mapping[str, Any], Mapping[str, Any]], None],
    limit: int | None,
) -> None:
    """Trains whole runs over the seeds.

    Args:
        names: The contestants; their order is turned round from seed to seed.
        start: Starts one.
        created: The job.
        seeds: Seeds from 0 on.
        known: Runs of before, which are not done again: `NAME seed N` -> run.
        keep: Called after each run with all runs, and with means and spreads.
        limit: Steps of a run, None for all of its epochs.
    """
    runs = dict(known)
    for seed in range(seeds):
        for name in names if seed % 2 == 0 else reversed(names):
            key = f"{name} seed {seed}"
            if "score" in runs.get(key, {}):
                continue
            runs[key] = _run(name, seed, start, created, limit or created.job.settings["num_steps"])
            print(key, runs[key], flush=True)
            keep(runs, scores_of(runs))


def _run(name: str, seed: int, start: Start, created: Created, steps: int) -> dict[str, Any]:
    logits = created.job.folder / f"{name.replace(':', '-')}-{seed}-logits.npz"
    contestant, began = None, time.perf_counter()
    try:
        contestant = start(name, seed, logits)
        ready = time.perf_counter()
        trained = contestant.take(steps)
        seconds = time.perf_counter() - ready
        contestant.end()
    except ContestantError as error:
        return {"failed": str(error)}
    finally:
        if contestant is not None:
            contestant.close()
    return {
        "score": created.score(logits),
        "train_s": seconds,
        "whole_s": time.perf_counter() - began,
        "processor_s": sum(step[3] for step in trained),
        "steps": len(trained),
    }


def scores_of(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns mean and spread (standard deviation) of each contestant's scores, and its median seconds of training."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(key.split(" seed ")[0] for key in runs):
        good = [run for key, run in runs.items() if key.startswith(f"{name} seed ") and "score" in run]
        if good:
            scores = [run["score"] for run in good]
            found[name] = {
                "mean": statistics.mean(scores),
                "spread": statistics.stdev(scores) if len(scores) > 1 else 0.0,
                "seeds": len(scores),
                "train_s": statistics.median(run["train_s"] for run in good),
            }
    return found
