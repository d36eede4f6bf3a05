"""Fine-tuning a pretrained BERT with `tfdist train`'s settings, beside every peer that is installed.

    python -m benchmarks.finetune --data FOLDER --model FOLDER \
        --peer-python hf=/path/to/python --peer-python keras-jax=/path/to/python

Three parts. `speed`: all contestants train the same batches in processes of their own, which take turns of a few steps;
only one works at a time, and the order alternates, so that ratios are of steps that lie side by side in time.
`accuracy`: whole runs, one after the other, over several seeds. `losses` (not among `all`): the losses of the first
steps, without dropout and from one head, where contestants that do the same differ by rounding alone. Peers live in
Pythons of their own and are given by a flag; one that is missing is listed as such.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.peers import tiny
from benchmarks.peers.create import Created, create_job
from benchmarks.peers.kinds import KINDS, Kind, missing, started
from benchmarks.peers.measured import beside, summarized
from benchmarks.peers.runs import over_seeds
from benchmarks.peers.table import markdown
from tfdist.bench.process import Contestant, ContestantError

PRECISIONS = ("float32", "bfloat16")
DEFAULT = [f"{name}:{precision}" for name in KINDS for precision in PRECISIONS]


class Field:
    """The contestants that are asked for: those that can run, and why the others cannot."""

    def __init__(self, arguments: argparse.Namespace, created: Created) -> None:
        self._pythons = dict(one.split("=", 1) for one in arguments.peer_python)
        self._options = json.dumps(arguments.tfdist_options)
        self._folder = created.job.folder
        self.absent: dict[str, str] = {}
        self.runnable: list[str] = []
        for name in arguments.contestants:
            lacking = missing(self.kind(name), self._python(name))
            if lacking:
                self.absent[name] = f"not installed: {', '.join(lacking)}"
            else:
                self.runnable.append(name)

    def kind(self, name: str) -> Kind:
        return KINDS[name.split(":")[0]]

    def _python(self, name: str) -> str:
        return self._pythons.get(name.split(":")[0], sys.executable)

    def start(self, name: str, seed: int, logits: Path | None = None) -> Contestant:
        arguments = [str(self._folder), str(seed), name.split(":")[1], *([str(logits)] if logits else [])]
        log = self._folder / f"{name.replace(':', '-')}-{seed}"
        return started(self.kind(name), self._python(name), arguments, log, FINETUNE_OPTIONS=self._options)


def speed(field: Field, *, rounds: int, turn: int) -> dict[str, Any]:
    """Lets all contestants train the same batches in turns; returns what each took, and the ratios.

    A round is one turn of each, of the same `turn` batches. The order of the contestants is turned round after each.
    There are no more rounds than an epoch has batches for.
    """
    running: dict[str, Contestant] = {}
    failed: dict[str, str] = {}
    steps: dict[str, list[list[list[float]]]] = {}
    try:
        for name in field.runnable:
            try:
                running[name], steps[name] = field.start(name, seed=0), []
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
            if any(len(turns[-1]) < turn for turns in steps.values() if turns):
                rounds = number + 1
                break
    finally:
        for one in running.values():
            one.close()
    results = {
        name: summarized(steps[name], field.kind(name).compiles_shapes)
        | {"start_s": one.start_s, "info": one.info}
        for name, one in running.items()
    }
    ratios = beside({name: (steps[name], field.kind(name).compiles_shapes) for name in running})
    return {"contestants": results, "ratios": ratios, "failed": failed, "turn": turn, "rounds": rounds}


def losses(field: Field, steps: int) -> dict[str, Any]:
    """Lets each contestant train the same first steps, in which nothing is left to chance.

    Returns:
        The loss of each step, by contestant; and the mean distance of each from the first contestant, over the first
        30 steps and over all.
    """
    found: dict[str, list[float]] = {}
    for name in field.runnable:
        contestant = field.start(name, seed=0)
        try:
            found[name] = [step[4] for step in contestant.take(steps)]
        finally:
            contestant.close()
        print(name, statistics.mean(found[name]), flush=True)
    first = next(iter(found.values()))

    def distance(values: list[float], count: int) -> float:
        return statistics.mean(
            abs(one - other) for one, other in zip(values[:count], first[:count], strict=True)
        )

    distances = {name: [distance(values, count) for count in (30, steps)] for name, values in found.items()}
    return {"steps": steps, "distances": distances, "losses": found}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="package:chatterbot-corpus", help="as `tfdist train --data`")
    parser.add_argument("--model", default="minilm", help="as `tfdist train --model`: minilm or a folder")
    parser.add_argument("--task", default="text-classification", help="or token-classification")
    parser.add_argument("--name", default=None, help="name of the results, by default the task's")
    parser.add_argument("--part", choices=("speed", "accuracy", "losses", "all"), default="all")
    parser.add_argument(
        "--contestants", nargs="+", default=DEFAULT, help="KIND:PRECISION, of " + " ".join(DEFAULT)
    )
    parser.add_argument(
        "--peer-python", action="append", default=[], metavar="KIND=PYTHON", help="Python of a peer"
    )
    parser.add_argument(
        "--tfdist-options", type=json.loads, default={}, metavar="JSON", help="of create_strategy"
    )
    parser.add_argument("--seeds", type=int, default=5, help="runs of each in the accuracy part")
    parser.add_argument("--epochs", type=int, default=1, help="of a run")
    parser.add_argument(
        "--learning-rate", type=float, default=None, help="in place of the one of `tfdist train`"
    )
    parser.add_argument("--rounds", type=int, default=12, help="turns of each in the speed part")
    parser.add_argument("--turn", type=int, default=20, help="steps of one turn")
    parser.add_argument("--max-steps", type=int, default=None, help="steps of each run of the accuracy part")
    parser.add_argument("--bucket-step", type=int, default=None, help="in place of the one of `tfdist train`")
    parser.add_argument("--resume", action="store_true", help="keep the runs that the results file has")
    parser.add_argument(
        "--smoke", action="store_true", help="a few steps of a tiny model, to see that it runs"
    )
    parser.add_argument("--output", type=Path, default=harness.RESULTS, help="folder of the JSON file")
    return parser.parse_args(argv)


def make_tiny(arguments: argparse.Namespace, folder: Path) -> None:
    """Sets what `--smoke` trains, and how little of it."""
    arguments.data, arguments.model = (
        str(tiny.write_texts(folder / "data")),
        str(tiny.write_model(folder / "model")),
    )
    arguments.task, arguments.seeds, arguments.max_steps = "text-classification", 1, 3


def measure(arguments: argparse.Namespace, created: Created, before: Mapping[str, Any]) -> dict[str, Any]:
    """Runs the parts that are asked for, and writes after each; a part that is not keeps what was found before."""
    field = Field(arguments, created)
    name = "finetune_" + (arguments.name or arguments.task.split("-")[0])
    settings = {key: value for key, value in created.job.settings.items() if key != "model"}
    results: dict[str, Any] = {"settings": settings, "tfdist_options": arguments.tfdist_options}
    results |= {
        "absent": field.absent,
        **{key: before[key] for key in ("speed", "runs", "accuracy", "losses") if key in before},
    }
    if arguments.part in ("speed", "all"):
        results["speed"] = speed(field, rounds=arguments.rounds, turn=arguments.turn)
        harness.write(arguments.output, name, results)
    if arguments.part in ("accuracy", "all"):

        def keep(runs: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
            results.update(runs=dict(runs), accuracy=scores)
            harness.write(arguments.output, name, results)

        known = before.get("runs", {}) if arguments.resume else {}
        limit = arguments.max_steps
        over_seeds(field.runnable, field.start, created, arguments.seeds, known=known, keep=keep, limit=limit)
    if arguments.part == "losses":
        results["losses"] = losses(field, arguments.max_steps or 100)
        harness.write(arguments.output, name, results)
    return results


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.smoke:
            make_tiny(arguments, Path(temporary))
            arguments.rounds, arguments.turn = 3, 2
            arguments.contestants = [name for name in arguments.contestants if name.endswith(":float32")]
        created = create_job(
            Path(temporary) / "job",
            task_name=arguments.task,
            data=arguments.data,
            model=arguments.model,
            seeds=max(1, arguments.seeds),
            epochs=arguments.epochs,
            bucket_step=arguments.bucket_step,
            learning_rate=arguments.learning_rate,
            alike=arguments.part == "losses",
        )
        path = arguments.output / f"finetune_{arguments.name or arguments.task.split('-')[0]}.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        results = measure(arguments, created, before)
    print(markdown(results))
    print(path)


if __name__ == "__main__":
    main()
