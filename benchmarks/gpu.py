"""Training on one or several GPUs in 8 minutes: plain Keras with XLA, stock mirrored, tfdist's mirrored and mesh.

    python -m benchmarks.gpu

A BERT-base classifier on 128 tokens, AdamW with clipping. Each contestant trains in a process of its own, one after the
other. Writes `gpu.json` and, as `gpu.md`, a row for a table in Markdown. A time budget is kept: what does not fit is
skipped, and said so. `--smoke` trains a tiny model on two logical CPU devices.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.gpus.figures import flops_per_step, mfu, nccl_version, row
from tfdist.bench.comparisons import Entry, start
from tfdist.bench.process import ContestantError

BUDGET_S = 480.0
# Name -> (dtype policy, whether products of float32 take TF32)
PRECISIONS = {"float32": ("float32", False), "bf16": ("mixed_bfloat16", True), "tf32": ("float32", True)}


@dataclass
class Budget:
    """Seconds for everything; `fits` says whether there is time for one more like the longest so far."""

    seconds: float
    longest: float = 0.0

    def __post_init__(self) -> None:
        self.start = time.monotonic()

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.start)

    def fits(self) -> bool:
        return self.left > max(self.longest, 1.0)


def contestants(num_devices: int) -> dict[str, dict[str, Any]]:
    """Returns strategy and options by name; with one device those of one, with several also those of all."""
    found: dict[str, dict[str, Any]] = {
        "plain Keras, XLA": {"strategy": "plain", "jit_compile": True},
        "one_device": {"strategy": "one_device", "options": {"repeated_rows": "sum"}},
    }
    of_all = {"devices": num_devices}
    found["stock mirrored"] = {"strategy": "stock_mirrored", "options": of_all}
    found["mirrored"] = {"strategy": "mirrored", "options": {**of_all, "self_check": "off"}}
    mesh = {"mesh": {"batch": num_devices, "model": 1}, "self_check": "off"}
    found["mesh"] = {"strategy": "mesh", "options": mesh}
    return found


def run_one(spec: dict[str, Any], folder: Path, steps: int, budget: Budget) -> dict[str, Any]:
    """Trains two turns that warm up and three that count; returns times, memory and collectives."""
    began = time.monotonic()
    contestant = None
    try:
        contestant = start(Entry(spec["strategy"], spec), folder, silent_s=max(1.0, budget.left))
        first = contestant.take(1)
        contestant.take(steps)
        turns = [contestant.take(steps) for _ in range(3)]
        told = contestant.end()
        told["nccl"] = nccl_version(contestant.log())
    except ContestantError as error:
        late = budget.left <= 0
        return {"skipped": "time budget"} if late else {"failed": str(error)}
    finally:
        if contestant is not None:
            contestant.close()
        budget.longest = max(budget.longest, time.monotonic() - began)
    seconds = harness.summary([sum(step[2] for step in turn) / steps for turn in turns])
    return {
        "step_s": seconds,
        "examples_per_s": spec["rows"] / seconds["median"],
        "first_s": first[0][2],
        "start_s": contestant.start_s,
        "rows": spec["rows"],
        **told,
    }


def parity(entered: dict[str, dict[str, Any]], budget: Budget) -> dict[str, Any]:
    """Holds strategies on these devices against one device, in float32, each in a process of its own."""
    results: dict[str, Any] = {}
    for name, spec in entered.items():
        if spec["strategy"] not in ("mirrored", "mesh"):
            continue
        if not budget.fits():
            results[name] = {"skipped": "time budget"}
            continue
        command = [sys.executable, "-m", "benchmarks.gpu", "--self-test", json.dumps(spec)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=max(1.0, budget.left), check=False
            )
        except subprocess.TimeoutExpired:
            results[name] = {"skipped": "time budget"}
            continue
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"differences"')]
        results[name] = json.loads(lines[-1]) if lines else {"failed": done.stderr.strip()[-300:]}
        print("parity", name, results[name], flush=True)
    return results


def self_test(spec: dict[str, Any]) -> dict[str, Any]:
    """Trains a small model under the strategy and on one device of this process; returns the differences."""
    import tensorflow as tf

    import tfdist
    from tfdist.parity.self_test import self_test as compare

    tf.config.experimental.enable_tensor_float_32_execution(False)
    result = compare(tfdist.create_strategy(spec["strategy"], **spec["options"]))
    return {"differences": result.differences, "tolerance": result.tolerance, "passed": result.passed}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs everything that the budget has time for."""
    budget = Budget(arguments.budget_s)
    # Read from a short process, so that this one holds no memory of a GPU.
    code = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    num_gpus = int(found.stdout.split()[-1])
    num_devices = num_gpus or (2 if arguments.smoke else 1)
    model = "tiny" if arguments.smoke else "bert_base"
    common = {"model": f"benchmarks.gpus.models:{model}", "inspect": True}
    results: dict[str, Any] = {"gpus": num_gpus, "devices": num_devices, "model": model, "contestants": {}}
    entered = {
        name: spec
        for name, spec in contestants(num_devices).items()
        if not arguments.only or name in arguments.only
    }
    results["parity"] = parity(entered, budget)
    with tempfile.TemporaryDirectory() as folder:
        for precision, (policy, tf32) in PRECISIONS.items():
            if arguments.precisions and precision not in arguments.precisions:
                continue
            for name, own in entered.items():
                key = f"{name}, {precision}"
                used = 1 if own["strategy"] in ("plain", "one_device") else num_devices
                spec = {
                    **common,
                    **own,
                    "rows": used * arguments.per_device_batch,
                    "precision": policy,
                    "tf32": tf32,
                }
                if not budget.fits():
                    results["contestants"][key] = {"skipped": "time budget"}
                else:
                    one = run_one(spec, Path(folder) / key.replace(" ", "_"), arguments.steps, budget)
                    if "step_s" in one:
                        flops = flops_per_step(model, spec["rows"])
                        one |= {"flops_per_step": flops, **mfu(flops, one, precision, used)}
                    results["contestants"][key] = one
                print(key, results["contestants"][key], flush=True)
    results["budget_s"], results["spent_s"] = budget.seconds, budget.seconds - budget.left
    return results


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a tiny model on two logical CPU devices")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds for everything")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="contestants, of " + ", ".join(contestants(1))
    )
    parser.add_argument("--precisions", nargs="*", choices=PRECISIONS, help="only these")
    parser.add_argument("--per-device-batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40, help="steps of a turn, of which three count")
    parser.add_argument("--output", type=Path, default=harness.RESULTS, help="folder of the files")
    parser.add_argument("--self-test", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    # For the contestants: memory as it is needed, and a line of NCCL where it is used.
    os.environ |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "NCCL_DEBUG": "VERSION"}
    if arguments.self_test is not None:
        print(json.dumps(self_test(arguments.self_test)))
        return
    if arguments.smoke:
        arguments.precisions, arguments.steps = arguments.precisions or ["float32"], 2
        arguments.per_device_batch = 4
    results = measure(arguments)
    path = harness.write(arguments.output, "gpu", results)
    line = row(json.loads(path.read_text()))
    path.with_suffix(".md").write_text(line + "\n")
    print(line)
    print(path)


if __name__ == "__main__":
    main()
