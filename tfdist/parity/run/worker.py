"""One process of a topology: `python -m tfdist.parity.run.worker TOPOLOGY FOLDER CASE...` runs cases in order."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

from tfdist.parity.comparison import kind_of
from tfdist.parity.context import Context
from tfdist.parity.registry import Case, all_cases
from tfdist.parity.run import results
from tfdist.parity.topologies import TOPOLOGIES, Topology, import_module

# Exit codes by which the parent knows how this process has ended.
HANGS = 97
BROKEN = 98

# Seconds that this process may still take for a case after another process has failed in it.
PEER_GRACE_S = 6.0


class Watchdog:
    """Ends the process if a case takes longer than its limit, or than `PEER_GRACE_S` after another has failed in it."""

    def __init__(self, folder: Path, topology: Topology, process_index: int) -> None:
        self._folder, self._topology, self._process_index = folder, topology, process_index
        self._case: Case | None = None
        self._deadline = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self, case: Case) -> None:
        self._deadline = time.monotonic() + case.limit_s
        self._case = case

    def stop(self) -> None:
        self._case = None

    def _watch(self) -> None:
        shortened = None
        while True:
            time.sleep(0.1)
            case = self._case
            if case is None:
                continue
            if shortened is not case and self._peer_failed(case):
                shortened = case
                self._deadline = min(self._deadline, time.monotonic() + PEER_GRACE_S)
            if time.monotonic() > self._deadline and self._case is case:
                faulthandler.dump_traceback(all_threads=True)
                status = results.Status(
                    "hang", f"no end within {case.limit_s:g} s", case.limit_s, broken=True
                )
                if shortened is case:
                    status = results.Status("hang", "waits for a worker that failed", broken=True)
                results.write(self._folder, case.name, self._process_index, status, None)
                os._exit(HANGS)

    def _peer_failed(self, case: Case) -> bool:
        peers = (results.read_status(self._folder, case.name, i) for i in range(self._topology.num_processes))
        return any(status is not None and status.outcome != "ok" for status in peers)


def run_case(case: Case, context: Context) -> tuple[results.Status, dict[str, object] | None]:
    """Runs one case from a clean Keras state; an exception becomes part of the status."""
    import keras
    import tensorflow as tf

    # Python collects what is left when it needs to; in each case that would take as long as a small fit.
    keras.utils.clear_session(free_memory=False)
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(7)
    started, cpu_started = time.monotonic(), time.process_time()
    try:
        arrays = dict(case.run(context))
        for name in arrays:
            kind_of(name)
    # Everything that a case raises is a result, also SystemExit, but not Ctrl-C.
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # In its messages, Keras names the place in the first line and the error in the second.
        message = f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"
        # A worker of tfdist that fails tells the others, and that ends their collectives for good.
        told = context.topology.num_processes > 1 and not context.stock
        broken = told or isinstance(error, tf.errors.OpError)
        return results.Status("error", message, time.monotonic() - started, broken), None
    cpu_s = time.process_time() - cpu_started
    return results.Status("ok", "", time.monotonic() - started, cpu_s=cpu_s), arrays


def await_peers(folder: Path, topology: Topology, case: Case) -> bool:
    """Waits until every process has recorded the case.

    Returns:
        Whether the processes can go on together: all ended the case alike, with a usable runtime.
    """
    deadline = time.monotonic() + case.limit_s + PEER_GRACE_S
    while True:
        statuses = [results.read_status(folder, case.name, index) for index in range(topology.num_processes)]
        known = [status for status in statuses if status is not None]
        if len(known) == len(statuses):
            return len({status.outcome for status in known}) == 1 and not any(
                status.broken for status in known
            )
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def main(argv: list[str] | None = None) -> None:
    """Runs the named cases one after the other. A process that cannot go on ends with `BROKEN`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("topology")
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="+")
    parser.add_argument(
        "--part", default="all", help="name of this run, for the file that says that it started"
    )
    parser.add_argument("--import", dest="imports", action="append", default=[], metavar="MODULE")
    arguments = parser.parse_args(argv)
    for module in arguments.imports:
        import_module(module)
    topology, folder = TOPOLOGIES[arguments.topology], arguments.folder
    process_index = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0)

    strategy = topology.create_strategy()
    unseeded = _global_seed()
    (folder / f"started.{arguments.part}.{process_index}").touch()
    watchdog = Watchdog(folder, topology, process_index)
    cases = all_cases()
    for name in arguments.cases:
        case = cases[name]
        print(f"--- {name}", flush=True)
        watchdog.start(case)
        context = Context(topology, strategy, process_index, folder / f"{name}.files", unseeded)
        status, arrays = run_case(case, context)
        watchdog.stop()
        results.write(folder, name, process_index, status, arrays)
        if not await_peers(folder, topology, case):
            _leave(BROKEN)


def _global_seed() -> int | None:
    import tensorflow as tf

    # No other public function reads the global seed. If there is none, this gives the default seed of graphs.
    seed = tf.compat.v1.get_seed(1)[0]
    return None if seed == 87654321 else seed


def _leave(code: int) -> NoReturn:
    # After an error in a collective, the runtime may hang in its own shutdown.
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
