"""Runs cells in parts, the cases of one topology or one module of them; each part has processes of its own."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tfdist.parity.registry import Case, all_cases
from tfdist.parity.run import results
from tfdist.parity.run.slots import Slots, exclusive
from tfdist.parity.run.suite import Cell, read_cell, run_topology
from tfdist.parity.topologies import REFERENCE, TOPOLOGIES, Topology

# These have so many tests that they are cut into parts, one for each module of cases, which run side by side.
_CUT = (REFERENCE.name, "mirrored_2", "mesh_2x2")


def part_of(case: Case, topology: Topology) -> str:
    """Returns the part of a case. A topology with few tests has one part, since each part starts processes."""
    return case.module.rsplit(".", 1)[-1] if topology.name in _CUT else "all"


class Parts:
    """Runs the cells that are asked for, each together with the other wanted cells of its part.

    Several processes may share the folder, as those of pytest-xdist do. The process that asks for a cell runs its part,
    and the first one that needs a part of the reference runs that.
    """

    def __init__(
        self, folder: Path, wanted: Iterable[tuple[str, str]], slots: Slots, imports: Sequence[str] = ()
    ) -> None:
        """Starts nothing yet.

        Args:
            folder: The folder of results and logs.
            wanted: Pairs of case and topology.
            slots: The slots that limit the busy processes.
            imports: Modules that register topologies and their strategies.
        """
        self._folder, self._slots, self._imports = folder, slots, imports
        self._wanted: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, topology_name in dict.fromkeys(wanted):
            case, topology = all_cases()[name], TOPOLOGIES[topology_name]
            self._wanted[topology.name, part_of(case, topology)].append(name)
            of_reference = self._wanted[REFERENCE.name, part_of(case, REFERENCE)]
            if name not in of_reference:
                of_reference.append(name)
        self._pool = ThreadPoolExecutor(max_workers=64)
        self._runs: dict[tuple[str, str], Future[None]] = {}
        self._lock = threading.Lock()

    def cell(self, name: str, topology_name: str) -> Cell:
        """Returns the cell of a wanted case as soon as it is known.

        Raises:
            RuntimeError: Its part has ended without it.
        """
        case, topology = all_cases()[name], TOPOLOGIES[topology_name]
        runs = [self._start(one, part_of(case, one)) for one in (REFERENCE, topology)]
        while True:
            ended = all(run.done() for run in runs)
            if results.read_status(self._folder / REFERENCE.name, name, 0) is not None:
                cell = read_cell(self._folder, topology, case)
                if cell is not None:
                    return cell
            if ended:
                for run in runs:
                    run.result()
                raise RuntimeError(f"{name} on {topology_name} was not run; see the logs in {self._folder}.")
            time.sleep(0.05)

    def close(self) -> None:
        """Waits for what is under way."""
        self._pool.shutdown()

    def _start(self, topology: Topology, part: str) -> Future[None]:
        with self._lock:
            key = (topology.name, part)
            if key not in self._runs:
                self._runs[key] = self._pool.submit(self._run, topology, part)
            return self._runs[key]

    def _run(self, topology: Topology, part: str) -> None:
        names = self._wanted[topology.name, part]
        self._folder.mkdir(parents=True, exist_ok=True)
        with (
            exclusive(self._folder / f"{topology.name}.{part}.lock"),
            self._slots.hold(topology.num_processes),
        ):
            run_topology(
                topology,
                self._folder,
                names=names,
                keep=True,
                part=part,
                imports=self._imports,
                report=print,
            )
