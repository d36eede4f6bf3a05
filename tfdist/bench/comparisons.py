"""Comparisons of contestants: what is started, how many rounds, and the ratio that comes out."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfdist.bench.figures import ratio, summary
from tfdist.bench.process import SILENT_S, Contestant, ContestantError
from tfdist.launch.ports import find_free_ports


@dataclass(frozen=True)
class Entry:
    """A contestant.

    Attributes:
        name: As it is shown.
        spec: What `tfdist.bench.contestant` takes.
        cores: For each process of it, the cores that it may use; None is one process on all. Several processes are
            workers of one cluster on this host.
    """

    name: str
    spec: Mapping[str, Any]
    cores: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class Comparison:
    """Two contestants side by side.

    Attributes:
        title: What is compared.
        one: The contestant that is looked at.
        to: What it is held against.
        aim: The ratio of the seconds that a row takes, at most; None if there is no aim.
        steps: Steps of a turn.
        rounds: Turns of each that count; one more before them does not.
        min_rate: Whether the ratio that is shown is that of examples/s, which should be large, and not that of step
            times, which should be small. The aim is then the least.
        per_worker: Whether examples/s are those of each process.
    """

    title: str
    one: Entry
    to: Entry
    aim: float | None
    steps: int
    rounds: int
    min_rate: bool = False
    per_worker: bool = False


@dataclass
class Outcome:
    """What a comparison has found: a ratio, or why there is none."""

    comparison: Comparison
    ratio: dict[str, float] | None = None
    step_s: dict[str, dict[str, float]] = field(default_factory=dict)
    failed: str | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the median is within the aim; None if there is no aim or no ratio."""
        if self.ratio is None or self.comparison.aim is None:
            return None
        median, aim = self.ratio["median"], self.comparison.aim
        return median >= aim if self.comparison.min_rate else median <= aim


def start(entry: Entry, log: Path, silent_s: float = SILENT_S) -> Contestant:
    """Starts a contestant.

    Raises:
        ContestantError: It failed before its first step.
    """
    cores: list[Sequence[int] | None] = [None] if entry.cores is None else list(entry.cores)
    environments: list[dict[str, str]] = [{} for _ in cores]
    if len(cores) > 1:
        workers = [f"127.0.0.1:{port}" for port in find_free_ports(len(cores))]
        for index, environment in enumerate(environments):
            task = {"type": "worker", "index": index}
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
            environment["CUDA_VISIBLE_DEVICES"] = "-1"
    specs = [{**entry.spec, **({"cores": list(own)} if own is not None else {})} for own in cores]
    commands = [[sys.executable, "-m", "tfdist.bench.contestant", json.dumps(spec)] for spec in specs]
    return Contestant(commands, log, environments, silent_s)


def run(comparison: Comparison, report: Callable[[str], None]) -> Outcome:
    """Lets the two take turns; returns the ratio with its quartiles over the rounds."""
    entries = (comparison.to, comparison.one)
    running: dict[str, Contestant] = {}
    samples: dict[str, list[list[float]]] = {entry.name: [] for entry in entries}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, entry in enumerate(entries):
                report(f"{comparison.title}: starts {entry.name}")
                running[entry.name] = start(entry, Path(folder) / str(number))
            for number in range(comparison.rounds + 1):
                report(f"{comparison.title}: round {number} of {comparison.rounds}")
                for name in running if number % 2 else reversed(running):
                    steps = running[name].take(comparison.steps)
                    if number:
                        samples[name].append([step[2] for step in steps])
        except ContestantError as error:
            return Outcome(comparison, failed=str(error))
        finally:
            for contestant in running.values():
                contestant.close()
    medians = {
        name: summary([second for turn in turns for second in turn]) for name, turns in samples.items()
    }
    return Outcome(comparison, _scaled(comparison, samples), medians)


def _scaled(comparison: Comparison, samples: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, float]:
    """Returns the ratio of the seconds of a row, or of rows in a second."""
    one, to = comparison.one, comparison.to
    rows = {entry.name: entry.spec["rows"] for entry in (one, to)}
    if comparison.per_worker:
        rows = {entry.name: rows[entry.name] / len(entry.cores or [()]) for entry in (one, to)}
    if comparison.min_rate:
        found, factor = ratio(samples, to.name, one.name), rows[one.name] / rows[to.name]
    else:
        found, factor = ratio(samples, one.name, to.name), rows[to.name] / rows[one.name]
    return {key: value * factor for key, value in found.items()}
