"""Runs the cases of layouts in their own processes and holds the results against the reference."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfdist.parity import comparison as numerics
from tfdist.parity import results
from tfdist.parity.processes import ProcessGroup, worker_environments
from tfdist.parity.registry import Case, cases_of
from tfdist.parity.topologies import LAYOUTS, REFERENCE, Layout
from tfdist.parity.worker import BROKEN, HANGS, PEER_GRACE_S

START_LIMIT_S = 60.0


@dataclass(frozen=True)
class Cell:
    """One case under one layout.

    Attributes:
        outcome: `"ok"` when every array is within its tolerance, `"FAIL"` when one is not, otherwise how the
            run ended (`"error"`, `"hang"`, `"crash"`).
        difference: The largest relative difference, 0 where the run did not end.
        message: Why the cell is not ok.
        seconds: Wall time of the slowest process.
    """

    outcome: str
    difference: float = 0.0
    message: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.outcome == "ok"


def run_layout(
    layout: Layout,
    folder: Path,
    *,
    names: Iterable[str] | None = None,
    keep: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Runs cases of one layout in one process, or one group of processes; restarted after a hang or a crash.

    Args:
        layout: Where to run.
        folder: Results go to a subfolder with the layout's name.
        names: Cases to run, of those that the layout has; all where None.
        keep: Whether results that are there already stand, instead of emptying the subfolder first.
        report: Called with one line for each restart.
    """
    target = folder / layout.name
    if not keep:
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    remaining = {
        name: case
        for name, case in cases_of(layout, names=names).items()
        if any(results.read_status(target, name, index) is None for index in range(layout.num_processes))
    }
    for name in remaining:
        shutil.rmtree(target / f"{name}.files", ignore_errors=True)
    while remaining:
        for index in range(layout.num_processes):
            (target / f"started.{index}").unlink(missing_ok=True)
        command = [sys.executable, "-m", "tfdist.parity.worker", layout.name, str(target), *remaining]
        logs = [target / f"log.{index}.txt" for index in range(layout.num_processes)]
        group = ProcessGroup(command, worker_environments(layout.num_processes), logs)
        limit_s = START_LIMIT_S + sum(case.limit_s + 2 * PEER_GRACE_S for case in remaining.values())
        try:
            codes = group.wait(
                limit_s, grace_s=max(case.limit_s for case in remaining.values()) + 2 * PEER_GRACE_S
            )
        finally:
            group.kill()
        started = all((target / f"started.{index}").exists() for index in range(layout.num_processes))
        remaining = _after_end(layout, target, remaining, codes, started)
        if remaining:
            report(f"{layout.name}: started again for {len(remaining)} cases (exit codes {codes})")


def _after_end(
    layout: Layout, folder: Path, remaining: dict[str, Case], codes: list[int | None], started: bool
) -> dict[str, Case]:
    """Blames a case for an end that no process has explained; returns the cases still to run."""
    processes = range(layout.num_processes)
    left = {
        name: case
        for name, case in remaining.items()
        if any(results.read_status(folder, name, index) is None for index in processes)
    }
    explained = started and len(left) < len(remaining) and set(codes) <= {0, BROKEN, HANGS}
    if explained or not left:
        return left
    reason = "the process ended" if started else f"did not start: {_last_line(folder / 'log.0.txt')}"
    blamed = [next(iter(left))] if started else list(left)
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


def read_cell(folder: Path, layout: Layout, case: Case) -> Cell | None:
    """Reads what a layout recorded for a case and compares it; None where it was not run."""
    merged, failures, status = _read_merged(folder / layout.name, layout, case)
    if status is None:
        return None
    if merged is None:
        return Cell(status.outcome, message=status.message, seconds=status.seconds)
    reference, _, reference_status = _read_merged(folder / REFERENCE.name, REFERENCE, case)
    if reference is None:
        why = reference_status.message if reference_status else "not run"
        return Cell("error", message=f"no reference: {why}", seconds=status.seconds)
    comparison = numerics.compare(merged, reference, layout.tolerance)
    failures += comparison.failures
    return Cell(
        "FAIL" if failures else "ok", comparison.difference, "; ".join(failures), seconds=status.seconds
    )


def _read_merged(
    folder: Path, layout: Layout, case: Case
) -> tuple[dict[str, np.ndarray] | None, list[str], results.Status | None]:
    statuses = [results.read_status(folder, case.name, index) for index in range(layout.num_processes)]
    known = [status for status in statuses if status is not None]
    if len(known) < len(statuses):
        return None, [], None
    worst = max(known, key=lambda status: (_SEVERITY.index(status.outcome), status.seconds))
    if worst.outcome != "ok":
        return None, [], worst
    parts = [results.read_arrays(folder, case.name, index) for index in range(layout.num_processes)]
    merged, failures = numerics.merge_processes(parts)
    return merged, failures, worst


# The cause is the most telling: an exception on one worker, rather than the peers that wait for it.
_SEVERITY = ("ok", "crash", "hang", "error")


def run_layouts(
    names: Iterable[str],
    folder: Path,
    *,
    cases: Iterable[str] | None = None,
    keep: Collection[str] = (),
    report: Callable[[str], None] = print,
) -> dict[tuple[str, str], Cell]:
    """Runs the reference and the named layouts.

    Args:
        names: The layouts.
        folder: Where results and logs go.
        cases: Names of cases; all where None.
        keep: Layouts of which the results that are in `folder` already stand; only what is missing is run.
        report: Called with one line for each layout and each restart.

    Returns:
        The cell of every (case, layout) that was run.
    """
    cases = None if cases is None else list(cases)
    wanted = [REFERENCE.name, *(name for name in names if name != REFERENCE.name)]
    cells: dict[tuple[str, str], Cell] = {}
    for name in wanted:
        begun = time.monotonic()
        run_layout(LAYOUTS[name], folder, names=cases, keep=name in keep, report=report)
        found = read_cells(folder, [name], cases=cases)
        good = sum(cell.passed for cell in found.values())
        report(f"{name}: {good} of {len(found)} cases ok in {time.monotonic() - begun:.0f} s")
        cells |= found
    return cells


def read_cells(
    folder: Path, names: Iterable[str], *, cases: Iterable[str] | None = None
) -> dict[tuple[str, str], Cell]:
    """Returns the cell of every (case, layout) that was run into `folder`."""
    cases = None if cases is None else list(cases)
    found = {
        (case.name, name): read_cell(folder, LAYOUTS[name], case)
        for name in names
        for case in cases_of(LAYOUTS[name], names=cases).values()
    }
    return {key: cell for key, cell in found.items() if cell is not None}
