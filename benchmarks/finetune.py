"""Fine-tuning a pretrained BERT under `tfdist train`'s settings, beside every peer that is installed.

    python -m benchmarks.finetune --data FOLDER --model FOLDER \
        --peer-python hf=/path/to/python --peer-python keras-jax=/path/to/python

Two parts. `speed`: all contestants train the same batches in processes of their own, which take turns of a few steps;
only one works at a time, and the order alternates, so that ratios are of steps that lie side by side in time.
`accuracy`: whole runs, one after the other, over several seeds. Peers live in Pythons of their own and are given by a
flag; one that is missing is listed as such.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.peers import tiny
from benchmarks.peers.create import Created, create_job
from benchmarks.peers.measured import beside, summarized
from benchmarks.peers.process import KINDS, Contestant, ContestantError, Kind, missing
from benchmarks.peers.table import markdown

PRECISIONS = ("float32", "bfloat16")


class Field:
    """The contestants that are asked for: those that can run, and why the others cannot."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.pythons = dict(one.split("=", 1) for one in arguments.peer_python)
        self.options = json.dumps(arguments.tfdist_options)
        self.absent: dict[str, str] = {}
        self.runnable: list[str] = []
        for name in arguments.contestants:
            lacking = missing(self.kind(name), self.python(name))
            if lacking:
                self.absent[name] = f"not installed: {', '.join(lacking)}"
            else:
                self.runnable.append(name)

    def kind(self, name: str) -> Kind:
        return KINDS[name.split(":")[0]]

    def python(self, name: str) -> str:
        return self.pythons.get(name.split(":")[0], sys.executable)

    def start(self, name: str, created: Created, seed: int, logits: Path | None = None) -> Contestant:
        precision = name.split(":")[1]
        arguments = [str(created.job.folder), str(seed), precision, *([str(logits)] if logits else [])]
        log = created.job.folder / f"{name.replace(':', '-')}-{seed}.log"
        return Contestant(self.kind(name), self.python(name), arguments, log, FINETUNE_OPTIONS=self.options)


def speed(field: Field, created: Created, *, rounds: int, turn: int) -> dict[str, Any]:
    """Lets all contestants train the same batches in turns; returns what each took, and the ratios.

    A round is one turn of each, of the same `turn` batches. The order of the contestants is turned round after each.
    """
    running: dict[str, Contestant] = {}
    failed: dict[str, str] = {}
    steps: dict[str, list[list[list[float]]]] = {}
    try:
        for name in field.runnable:
            try:
                running[name], steps[name] = field.start(name, created, seed=0), []
                print(f"{name}: ready after {running[name].start_s:.0f} s", flush=True)
            except ContestantError as error:
                failed[name] = f"failed: {error}"
        for number in range(rounds):
            for name in list(running) if number % 2 else list(reversed(running)):
                try:
                    steps[name].append(running[name].take(turn))
                except ContestantError as error:
                    failed[name] = f"failed: {error}"
                    running.pop(name).close()
            print(f"round {number + 1} of {rounds}", flush=True)
        starts = {name: (one.start_s, one.info) for name, one in running.items()}
    finally:
        for one in running.values():
            one.close()
    results = {
        name: summarized(steps[name], field.kind(name).compiles_shapes) | {"start_s": start, "info": info}
        for name, (start, info) in starts.items()
    }
    ratios = beside({name: (steps[name], field.kind(name).compiles_shapes) for name in starts})
    return {"contestants": results, "ratios": ratios, "failed": failed, "turn": turn, "rounds": rounds}


def accuracy(
    field: Field, created: Created, seeds: int, known: Mapping[str, Any], keep: Any, limit: int | None
) -> dict[str, Any]:
    """Trains whole runs over the seeds; returns scores, and seconds of each run.

    Args:
        field: The contestants.
        created: The job.
        seeds: Seeds from 0 on.
        known: Runs of before, which are not done again.
        keep: Called with all runs after each.
        limit: Steps of a run, None for all of its epochs.
    """
    runs: dict[str, Any] = dict(known)
    for seed in range(seeds):
        for name in field.runnable if seed % 2 == 0 else list(reversed(field.runnable)):
            key = f"{name} seed {seed}"
            if key in runs:
                continue
            logits = created.job.folder / f"{name.replace(':', '-')}-{seed}-logits.npz"
            start = time.perf_counter()
            contestant = None
            try:
                contestant = field.start(name, created, seed, logits)
                began = time.perf_counter()
                steps = contestant.take(limit or created.job.settings["num_steps"])
                trained = time.perf_counter() - began
                contestant.end()
                runs[key] = {
                    "train_s": trained,
                    "start_s": contestant.start_s,
                    "whole_s": time.perf_counter() - start,
                    "steps": len(steps),
                    "processor_s": sum(step[3] for step in steps),
                    "score": created.score(logits) if logits.exists() else None,
                }
            except ContestantError as error:
                runs[key] = {"failed": str(error)}
            finally:
                if contestant is not None:
                    contestant.close()
            print(key, runs[key], flush=True)
            keep(runs)
    return runs


def over_seeds(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns mean and spread of the scores of each contestant, and the median seconds of its training."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(key.split(" seed ")[0] for key in runs):
        good = [run for key, run in runs.items() if key.startswith(f"{name} seed ") and run.get("score") is not None]
        if good:
            scores = [run["score"] for run in good]
            found[name] = {
                "mean": statistics.mean(scores),
                "spread": statistics.stdev(scores) if len(scores) > 1 else 0.0,
                "seeds": len(scores),
                "train_s": statistics.median(run["train_s"] for run in good),
            }
    return found


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="package:chatterbot-corpus", help="as `tfdist train --data`")
    parser.add_argument("--model", default="minilm", help="as `tfdist train --model`: minilm or a folder")
    parser.add_argument("--task", default="text-classification", help="or token-classification")
    parser.add_argument("--name", default=None, help="name of the results, by default the task's")
    parser.add_argument("--part", choices=("speed", "accuracy", "all"), default="all")
    default = [f"{name}:{precision}" for name in KINDS for precision in PRECISIONS]
    parser.add_argument("--contestants", nargs="+", default=default, help="KIND:PRECISION, of " + " ".join(default))
    parser.add_argument("--peer-python", action="append", default=[], metavar="KIND=PYTHON", help="Python of a peer")
    parser.add_argument("--tfdist-options", type=json.loads, default={}, metavar="JSON", help="of create_strategy")
    parser.add_argument("--seeds", type=int, default=5, help="runs of the accuracy part")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12, help="turns of each contestant in the speed part")
    parser.add_argument("--turn", type=int, default=20, help="steps of one turn")
    parser.add_argument("--max-steps", type=int, default=None, help="steps of each run of the accuracy part")
    parser.add_argument("--bucket-step", type=int, default=None, help="in place of the one of `tfdist train`")
    parser.add_argument("--resume", action="store_true", help="keep the runs that the results file has")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny model, to see that it runs")
    parser.add_argument("--output", type=Path, default=harness.RESULTS, help="folder of the JSON file")
    return parser.parse_args(argv)


def _smoke(arguments: argparse.Namespace, folder: Path) -> None:
    """Makes everything tiny."""
    arguments.data, arguments.model = str(tiny.write_texts(folder / "data")), str(tiny.write_model(folder / "model"))
    arguments.task, arguments.seeds, arguments.rounds, arguments.max_steps = "text-classification", 1, 3, 3
    arguments.turn = 2
    arguments.contestants = [name for name in arguments.contestants if name.endswith(":float32")]


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.smoke:
            _smoke(arguments, Path(temporary))
        name = "finetune_" + (arguments.name or arguments.task.split("-")[0])
        created = create_job(
            Path(temporary) / "job",
            task_name=arguments.task,
            data=arguments.data,
            model=arguments.model,
            seeds=max(1, arguments.seeds),
            epochs=arguments.epochs,
            bucket_step=arguments.bucket_step,
        )
        field = Field(arguments)
        path = arguments.output / f"{name}.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        settings = {key: value for key, value in created.job.settings.items() if key != "model"}
        results: dict[str, Any] = {"settings": settings, "tfdist_options": arguments.tfdist_options}
        results["absent"] = field.absent
        # Each part keeps what the other one has found.
        results |= {key: before[key] for key in ("speed", "runs", "accuracy") if key in before}
        if arguments.part in ("speed", "all"):
            results["speed"] = speed(field, created, rounds=arguments.rounds, turn=arguments.turn)
            harness.write(arguments.output, name, results)
        if arguments.part in ("accuracy", "all"):

            def keep(runs: Mapping[str, Any]) -> None:
                results.update(runs=dict(runs), accuracy=over_seeds(runs))
                harness.write(arguments.output, name, results)

            known = before.get("runs", {}) if arguments.resume else {}
            accuracy(field, created, arguments.seeds, known, keep, arguments.max_steps)
    print(markdown(results))
    print(path)


if __name__ == "__main__":
    main()
