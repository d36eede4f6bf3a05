"""Runs the workers of this host until all have ended, so that none outlives the run."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from tfdist.errors import WorkerError
from tfdist.launch.companions import Companions
from tfdist.launch.failure import first_cause
from tfdist.launch.screen import Screen
from tfdist.launch.worker_plan import WorkerPlan
from tfdist.launch.worker_process import WorkerProcess, end_all, wait_for_all

_POLL_S = 0.05
# Seconds after a failure. In the first, the others may fail of their own accord, which tells whose error came first.
# In the second they may end after SIGTERM, and in the third after SIGKILL.
_EVIDENCE_S, _END_S, _KILL_S = 3.0, 5.0, 2.0
# Seconds after SIGTERM in which the workers may save. By this signal schedulers announce that they take the host away.
_PREEMPTION_S = 25.0


def run_workers(
    plans: Sequence[WorkerPlan],
    *,
    data_service: Sequence[WorkerPlan] = (),
    timeout_s: float | None = None,
    exit_timeout_s: float = 300.0,
    log_dir: Path | None = None,
) -> int:
    """Starts the workers, shows their output, and waits for all.

    When one fails, the others are ended within 15 seconds and its own error is printed last. Ctrl-C and
    SIGTERM are forwarded to the workers.

    Args:
        plans: the workers to start.
        data_service: processes of a data service that run beside them.
        timeout_s: longest time of the whole run, or None.
        exit_timeout_s: longest time that workers may go on after the first one has ended well.
        log_dir: folder for the output of each worker, in `worker_N.log` and the like, or None.

    Returns:
        0, or the exit code of the worker that failed first (128 plus the signal if it was killed), or 130 or
        143 after Ctrl-C or SIGTERM.

    Raises:
        ConfigError: `log_dir` cannot be written.
        WorkerError: a time limit has passed, or the data service has ended.
    """
    screen = Screen(sys.stdout, sys.stderr)
    companions = Companions(data_service, screen, log_dir)
    workers: list[WorkerProcess] = []
    with _caught_signals() as caught:
        try:
            companions.start()
            for plan in plans:
                workers.append(WorkerProcess(plan, screen, log_dir, shows_progress=plan is plans[0]))
            return _watch(workers, companions, screen, caught, timeout_s, exit_timeout_s)
        finally:
            end_all(workers, signal.SIGKILL, _KILL_S)
            for worker in workers:
                worker.close()
            companions.end()


def _watch(
    workers: Sequence[WorkerProcess],
    companions: Companions,
    screen: Screen,
    caught: Sequence[int],
    timeout_s: float | None,
    exit_timeout_s: float,
) -> int:
    start = time.monotonic()
    while True:
        if caught:
            return _interrupt(workers, screen, caught)
        if any(worker.returncode for worker in workers):
            return _fail(workers, screen, caught)
        running = [worker for worker in workers if worker.returncode is None]
        if not running:
            return 0
        problem = companions.problem()
        if problem is not None:
            _stop(workers)
            raise WorkerError(problem)
        now = time.monotonic()
        ended = [worker.ended_at for worker in workers if worker.ended_at is not None]
        if ended and now - min(ended) > exit_timeout_s:
            done = ", ".join(worker.name for worker in workers if worker.ended_at is not None)
            _stop(workers)
            raise WorkerError(
                f"{_names(running)} still ran {exit_timeout_s:g} s after {done} had ended well, and was "
                "ended. If that much work is left for it alone, raise --exit-timeout."
            )
        if timeout_s is not None and now - start > timeout_s:
            _stop(workers)
            raise WorkerError(
                f"{_names(running)} had not ended after {timeout_s:g} s, the limit of --timeout, and was "
                "ended. Raise --timeout if the run needs longer."
            )
        time.sleep(_POLL_S)


def _fail(workers: Sequence[WorkerProcess], screen: Screen, caught: Sequence[int]) -> int:
    """Ends the run after a failure and prints the error of the worker that failed first."""
    wait_for_all(workers, _EVIDENCE_S, until=lambda: bool(caught))
    running = [worker for worker in workers if worker.returncode is None]
    failures = [failure for worker in workers if (failure := worker.failure())]
    frozen = [worker for worker in running if worker.is_stopped]
    _stop(workers)
    if running:
        screen.line(f"[tfdist] ended {_names(running)}, which still ran", error=True)
    if frozen:
        screen.line(
            f"[tfdist] {_names(frozen)} was stopped (SIGSTOP or a debugger), so the others lost it",
            error=True,
        )
    cause = first_cause(failures)
    title = "Its last lines" if cause.is_killed else "Its own error"
    told = f"{title}:\n{cause.own_error}" if cause.own_error else "It wrote no error."
    screen.line(f"[tfdist] {cause.name} failed first: {cause.reason}. {told}", error=True)
    return cause.exit_code


def _interrupt(workers: Sequence[WorkerProcess], screen: Screen, caught: Sequence[int]) -> int:
    """Forwards the caught signal; a second one ends the workers at once."""
    number = caught[0]
    screen.line(f"[tfdist] {signal.Signals(number).name}: ending {_names(workers)}", error=True)
    end_all(workers, number, _PREEMPTION_S if number == signal.SIGTERM else _END_S, lambda: len(caught) > 1)
    end_all(workers, signal.SIGTERM, _KILL_S, lambda: len(caught) > 1)
    return 128 + number


def _stop(workers: Sequence[WorkerProcess]) -> None:
    end_all(workers, signal.SIGTERM, _END_S)
    end_all(workers, signal.SIGKILL, _KILL_S)


def _names(workers: Sequence[WorkerProcess]) -> str:
    return ", ".join(worker.name for worker in workers)


@contextlib.contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """While the workers run, collects SIGINT and SIGTERM in a list, so that they do not end the launcher."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
