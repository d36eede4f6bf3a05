"""Runs the cases of topologies in processes of their own, and compares the results with the reference."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfdist.parity.comparison import compare, merge_processes
from tfdist.parity.processes import ProcessGroup, worker_environments
from tfdist.parity.registry import Case, cases_of
from tfdist.parity.run import results
from tfdist.parity.run.slots import Slots
from tfdist.parity.run.worker import BROKEN, HANGS, PEER_GRACE_S
from tfdist.parity.topologies import REFERENCE, TOPOLOGIES, Topology

START_LIMIT_S = 60.0


@dataclass(frozen=True)
class Cell:
    """One case under one topology.

    Attributes:
        outcome: `"ok"` if every array is within its tolerance, `"FAIL"` if one is not, and if the run did not end, what
            it did (`"error"`, `"hang"`, `"crash"`).
        difference: The largest relative difference, 0 if the run did not end.
        message: Why the cell is not ok.
        seconds: Wall time of the slowest process.
        differences: The relative difference of each array, by its name.
    """

    outcome: str
    difference: float = 0.0
    message: str = ""
    seconds: float = 0.0
    differences: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the case gave what plain Keras gives."""
        return self.outcome == "ok"


def run_topology(
    topology: Topology,
    folder: Path,
    *,
    names: Iterable[str] | None = None,
    keep: bool = False,
    part: str = "all",
    imports: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Runs cases of one topology in one process, or one group of processes; restarted after a hang or a crash.

    Args:
        topology: The topology on which to run.
        folder: Results go to its subfolder with the topology's name.
        names: The cases to run, of those that the topology has; None for all.
        keep: Whether results that are there already are kept. Otherwise the subfolder is emptied first.
        part: Name of this run, different from those of other runs of the topology at the same time.
        imports: Modules that register the topology and its strategy.
        report: Called with one line for each restart.
    """
    target = folder / topology.name
    if not keep:
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    remaining = {
        name: case
        for name, case in cases_of(topology, names=names).items()
        if any(results.read_status(target, name, index) is None for index in range(topology.num_processes))
    }
    for name in remaining:
        shutil.rmtree(target / f"{name}.files", ignore_errors=True)
    options = [f"--part={part}", *(f"--import={module}" for module in imports)]
    started = [target / f"started.{part}.{index}" for index in range(topology.num_processes)]
    logs = [target / f"log.{part}.{index}.txt" for index in range(topology.num_processes)]
    while remaining:
        for marker in started:
            marker.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tfdist.parity.run.worker", *options, topology.name, str(target)]
        group = ProcessGroup(
            [*command, *remaining], worker_environments(topology.num_processes), logs, forked=True
        )
        limit_s = START_LIMIT_S + sum(case.limit_s + 2 * PEER_GRACE_S for case in remaining.values())
        try:
            codes = group.wait(
                limit_s, grace_s=max(case.limit_s for case in remaining.values()) + 2 * PEER_GRACE_S
            )
        finally:
            group.kill()
        reason = "" if all(marker.exists() for marker in started) else f"did not start: {_last_line(logs[0])}"
        remaining = _after_end(topology, target, remaining, codes, reason)
        if remaining:
            report(f"{topology.name}: started again for {len(remaining)} cases (exit codes {codes})")


def _after_end(
    topology: Topology, folder: Path, remaining: dict[str, Case], codes: list[int | None], not_started: str
) -> dict[str, Case]:
    """Finds the case in which the processes ended without an explanation; returns the cases that are still to run."""
    processes = range(topology.num_processes)
    left = {
        name: case
        for name, case in remaining.items()
        if any(results.read_status(folder, name, index) is None for index in processes)
    }
    explained = not not_started and len(left) < len(remaining) and set(codes) <= {0, BROKEN, HANGS}
    if explained or not left:
        return left
    reason = not_started or "the process ended"
    blamed = list(left) if not_started else [next(iter(left))]
    for name in blamed:
        for index in processes:
            if results.read_status(folder, name, index) is None:
                status = results.Status("crash", f"{reason} (exit codes {codes})")
                results.write(folder, name, index, status, None)
        del left[name]
    return left


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def read_cell(folder: Path, topology: Topology, case: Case) -> Cell | None:
    """Reads what a topology has recorded for a case, and compares it; returns None if the case was not run."""
    merged, failures, status = _read_merged(folder / topology.name, topology, case)
    if status is None:
        return None
    if merged is None:
        return Cell(status.outcome, message=status.message, seconds=status.seconds)
    reference, _, reference_status = _read_merged(folder / REFERENCE.name, REFERENCE, case)
    if reference is None:
        why = reference_status.message if reference_status else "not run"
        return Cell("error", message=f"no reference: {why}", seconds=status.seconds)
    comparison = compare(merged, reference, bit_equal=topology.bit_equal)
    failures += comparison.failures
    return Cell(
        "FAIL" if failures else "ok",
        comparison.difference,
        "; ".join(failures),
        status.seconds,
        comparison.differences,
    )


def _read_merged(
    folder: Path, topology: Topology, case: Case
) -> tuple[dict[str, np.ndarray] | None, list[str], results.Status | None]:
    statuses = [results.read_status(folder, case.name, index) for index in range(topology.num_processes)]
    known = [status for status in statuses if status is not None]
    if len(known) < len(statuses):
        return None, [], None
    worst = max(known, key=lambda status: (_SEVERITY.index(status.outcome), status.seconds))
    if worst.outcome != "ok":
        return None, [], worst
    parts = [results.read_arrays(folder, case.name, index) for index in range(topology.num_processes)]
    merged, failures = merge_processes(parts)
    return merged, failures, worst


# The last of these outcomes is the cause: an exception on one worker, and not that the others wait for it.
_SEVERITY = ("ok", "crash", "hang", "error")


def run_topologies(
    names: Iterable[str],
    folder: Path,
    *,
    cases: Iterable[str] | None = None,
    keep: Collection[str] = (),
    imports: Sequence[str] = (),
    jobs: int = 2,
    report: Callable[[str], None] = print,
) -> dict[tuple[str, str], Cell]:
    """Runs the reference and the named topologies.

    Args:
        names: Names of the topologies.
        folder: The folder of results and logs.
        cases: Names of cases; None for all.
        keep: Topologies whose results in `folder` are kept; only cases that have none are run.
        imports: Modules that register topologies and their strategies.
        jobs: Busy processes at a time.
        report: Called with one line for each topology and each restart.

    Returns:
        The cell of every (case, topology) that was run.
    """
    cases = None if cases is None else list(cases)
    wanted = list(dict.fromkeys((REFERENCE.name, *names)))
    slots = Slots(folder / "slots", jobs)

    def run(name: str) -> None:
        topology = TOPOLOGIES[name]
        with slots.hold(topology.num_processes):
            begun = time.monotonic()
            run_topology(topology, folder, names=cases, keep=name in keep, imports=imports, report=report)
            report(f"{name}: ran in {time.monotonic() - begun:.0f} s")

    with ThreadPoolExecutor(len(wanted)) as pool:
        list(pool.map(run, wanted))
    return read_cells(folder, wanted, cases=cases)


def read_cells(
    folder: Path, names: Iterable[str], *, cases: Iterable[str] | None = None
) -> dict[tuple[str, str], Cell]:
    """Returns the cell of every (case, topology) that was run into `folder`."""
    cases = None if cases is None else list(cases)
    found = {
        (case.name, name): read_cell(folder, TOPOLOGIES[name], case)
        for name in names
        for case in cases_of(TOPOLOGIES[name], names=cases).values()
    }
    return {key: cell for key, cell in found.items() if cell is not None}
