"""Keras scripts beside plain Keras, and several replicas and workers beside one, each in processes that take turns.

    python -m benchmarks.scripts [--only scripts|replicas|workers] [--compiled-update]

`scripts`: MLP, convnet, LSTM, KerasHub's BERT and GPT-2 under `one_device`, beside plain Keras. `replicas`: `mirrored`
of two logical devices beside `one_device`, on the same cores, with a BERT of MiniLM's size. `workers`: two workers,
each pinned to a core, beside one alone on one core with half of the global batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks import harness
from tfdist.bench.comparisons import Comparison, Entry, Outcome, run
from tfdist.bench.machine import usable_cores
from tfdist.bench.quick import weak_scaling

PARTS = ("scripts", "replicas", "workers")
# Name -> (function of the model, rows of a batch, steps of a turn)
SCRIPTS = {
    "MLP": ("tfdist.bench.models:mlp", 128, 200),
    "convnet": ("tfdist.bench.models:convnet", 32, 20),
    "LSTM": ("tfdist.bench.models:lstm", 32, 20),
    "KerasHub BERT": ("benchmarks.peers.hub_models:bert", 32, 20),
    "KerasHub GPT-2": ("benchmarks.peers.hub_models:gpt2", 8, 10),
}
# What `tfdist train` asks for.
AS_TRAIN = {"repeated_rows": "sum", "compiled_update": "auto"}


def script_comparisons(rounds: int, compiled_update: bool, smoke: bool) -> list[Comparison]:
    """Returns one for each script."""
    found = []
    options = {"compiled_update": True} if compiled_update else {}
    for name, (model, rows, steps) in list(SCRIPTS.items())[: 1 if smoke else None]:
        spec = {"model": model, "rows": rows}
        one = Entry("one_device", {**spec, "strategy": "one_device", "options": options})
        plain = Entry("plain Keras", {**spec, "strategy": "plain"})
        found.append(Comparison(f"{name}, a step", one, plain, 1.02, 3 if smoke else steps, rounds))
    return found


def replica_comparisons(rounds: int) -> list[Comparison]:
    """Returns mirrored of 2 beside one device, with MiniLM's size; one_device as `tfdist train` makes it."""
    spec = {"model": "tfdist.bench.models:minilm", "rows": 32}
    one = Entry("one_device", {**spec, "strategy": "one_device", "options": AS_TRAIN})
    found = []
    for name, extra in (
        ("mirrored of 2", {}),
        ("mirrored of 2, bfloat16 sums", {"communication_dtype": "bfloat16"}),
    ):
        options = {"devices": 2, "self_check": "off", **AS_TRAIN, **extra}
        entry = Entry(name, {**spec, "strategy": "mirrored", "options": options})
        found.append(Comparison("MiniLM, examples/s", entry, one, 0.95, 5, rounds, min_rate=True))
    return found


def worker_comparisons(rounds: int) -> list[Comparison]:
    """Returns weak scaling from one to two workers, in float32 and with bfloat16 on the wire."""
    cores = usable_cores()
    return [
        weak_scaling("2 workers", {}, cores, 0.90, 5, rounds),
        weak_scaling("2 workers, bfloat16", {"communication_dtype": "bfloat16"}, cores, 0.95, 5, rounds),
    ]


def described(outcome: Outcome) -> dict[str, Any]:
    """Returns an outcome for the JSON file."""
    comparison = outcome.comparison
    return {
        "what": comparison.title,
        "of": dataclasses.asdict(comparison.one),
        "beside": dataclasses.asdict(comparison.to),
        "aim": comparison.aim,
        "at_least": comparison.min_rate,
        "ratio": outcome.ratio,
        "rounds": comparison.rounds,
        "step_s": outcome.step_s,
        "failed": outcome.failed,
    }


def markdown(results: dict[str, Any]) -> str:
    """Returns a row for each comparison."""
    lines = ["| what | aim | median | quartiles | rounds |", "|---|---|---|---|---|"]
    for one in results["results"]:
        what = f"{one['what']}, {one['of']['name']} / {one['beside']['name']}"
        aim = f"{'≥' if one['at_least'] else '≤'} {one['aim']:.2f}"
        if one["failed"]:
            lines.append(f"| {what} | {aim} | failed: {one['failed'][:100]} | – | – |")
            continue
        found = one["ratio"]
        cells = f"{found['median']:.2f} | {found['low']:.2f}–{found['high']:.2f} | {one['rounds']}"
        lines.append(f"| {what} | {aim} | {cells} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="this part, and keep what was found of the others")
    parser.add_argument("--compiled-update", action="store_true", help="one_device with compiled_update=True")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--smoke", action="store_true", help="a few steps of one model, to see that it runs")
    parser.add_argument("--output", type=Path, default=harness.RESULTS, help="folder of the JSON file")
    arguments = parser.parse_args(argv)
    rounds = 2 if arguments.smoke else arguments.rounds
    path = arguments.output / "scripts.json"
    found: dict[str, Any] = json.loads(path.read_text())["parts"] if arguments.only and path.exists() else {}
    for part in ("scripts",) if arguments.smoke else (arguments.only,) if arguments.only else PARTS:
        if part == "scripts":
            comparisons = script_comparisons(rounds, arguments.compiled_update, arguments.smoke)
        elif part == "replicas":
            comparisons = replica_comparisons(rounds)
        else:
            comparisons = worker_comparisons(rounds)
        found[part] = [
            described(run(comparison, lambda line: print(line, flush=True))) for comparison in comparisons
        ]
        harness.write(arguments.output, "scripts", {"parts": found})
    print(markdown({"results": [one for part in found.values() for one in part]}))
    print(path)


if __name__ == "__main__":
    main()
