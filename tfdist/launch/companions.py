"""Keeps the processes of a data service running beside the workers, and ends them with the run."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from tfdist.launch.data_service import DISPATCHER
from tfdist.launch.failure import Failure
from tfdist.launch.screen import Screen
from tfdist.launch.worker_plan import WorkerPlan
from tfdist.launch.worker_process import WorkerProcess, end_all

MAX_RESTARTS = 3
_KILL_S = 2.0


class Companions:
    """The running processes of a data service on this host.

    A data worker that ends is started again, at most `MAX_RESTARTS` times: the training processes prepare by themselves
    what it has lost. The dispatcher knows what is left of each epoch, so without it the run ends.
    """

    def __init__(self, plans: Sequence[WorkerPlan], screen: Screen, log_dir: Path | None) -> None:
        self._screen = screen
        self._log_dir = log_dir
        self._plans = {plan.name: plan for plan in plans}
        self._restarts = dict.fromkeys(self._plans, 0)
        self._running: dict[str, WorkerProcess] = {}

    def start(self) -> None:
        """Starts all."""
        for name, plan in self._plans.items():
            self._running[name] = self._start(plan)

    def _start(self, plan: WorkerPlan, *, again: bool = False) -> WorkerProcess:
        return WorkerProcess(plan, self._screen, self._log_dir, shows_progress=False, log_goes_on=again)

    def problem(self) -> str | None:
        """Starts again what has ended; returns what to tell the user if that is not to be done."""
        for name, process in list(self._running.items()):
            if process.returncode is None:
                continue
            failure = process.failure()
            how = _in_words(failure)
            plan = self._plans[name]
            if plan.role == DISPATCHER or self._restarts[name] == MAX_RESTARTS:
                times = f"{MAX_RESTARTS + 1} times, the last time " if self._restarts[name] else ""
                own = f" Its last lines:\n{failure.own_error}" if failure and failure.own_error else ""
                return f"{name} has ended ({times}{how}), and the run with it.{own}"
            self._restarts[name] += 1
            self._screen.line(f"[tfdist] {name} has ended ({how}) and is started again", error=True)
            process.close()
            self._running[name] = self._start(plan, again=True)
        return None

    def end(self) -> None:
        """Ends all."""
        end_all([*self._running.values()], signal.SIGKILL, _KILL_S)
        for process in self._running.values():
            process.close()


def _in_words(failure: Failure | None) -> str:
    return "exit code 0" if failure is None else failure.reason
