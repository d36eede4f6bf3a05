"""Runs the workers of this host until all have ended, so that none outlives the run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from tfdist.errors import ConfigError, WorkerError
from tfdist.launch.failure import Failure, first_cause
from tfdist.launch.screen import Screen, WorkerOutput
from tfdist.launch.start_up_lines import hides_start_up_lines, is_start_up_line
from tfdist.launch.worker_plan import WorkerPlan

_POLL_S = 0.05
# Seconds after a failure. In the first, the others may fail of their own accord, which tells whose error came first.
# In the second they may end after SIGTERM, and in the third after SIGKILL.
_EVIDENCE_S, _END_S, _KILL_S = 3.0, 5.0, 2.0
# Seconds after SIGTERM in which the workers may save. By this signal schedulers announce that they take the host away.
_PREEMPTION_S = 25.0


def run_workers(
    plans: Sequence[WorkerPlan],
    *,
    timeout_s: float | None = None,
    exit_timeout_s: float = 300.0,
    log_dir: Path | None = None,
) -> int:
    """Starts the workers, shows their output, and waits for all.

    When one fails, the others are ended within 15 seconds and its own error is printed last. Ctrl-C and
    SIGTERM are forwarded to the workers.

    Args:
        plans: the workers to start.
        timeout_s: longest time of the whole run, or None.
        exit_timeout_s: longest time that workers may go on after the first one has ended well.
        log_dir: folder for the output of each worker, in `worker_N.log`, or None.

    Returns:
        0, or the exit code of the worker that failed first (128 plus the signal if it was killed), or 130 or
        143 after Ctrl-C or SIGTERM.

    Raises:
        ConfigError: `log_dir` cannot be written.
        WorkerError: a time limit has passed.
    """
    screen = Screen(sys.stdout, sys.stderr)
    workers: list[_Worker] = []
    with _caught_signals() as caught:
        try:
            for plan in plans:
                workers.append(_Worker(plan, screen, log_dir, shows_progress=plan is plans[0]))
            return _watch(workers, screen, caught, timeout_s, exit_timeout_s)
        finally:
            _end(workers, signal.SIGKILL, _KILL_S)
            for worker in workers:
                worker.close()


class _Worker:
    """A running worker process in a session of its own, and the threads that read its output."""

    def __init__(
        self, plan: WorkerPlan, screen: Screen, log_dir: Path | None, *, shows_progress: bool
    ) -> None:
        self.name = plan.name
        self.ended_at: float | None = None
        self.stderr: deque[str] = deque(maxlen=400)
        self._log = _open_log(log_dir, plan) if log_dir else None
        self._process = subprocess.Popen(
            plan.command,
            env={**os.environ, **plan.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._readers = []
        for stream, keep in ((self._process.stdout, None), (self._process.stderr, self.stderr)):
            assert stream is not None  # for the type checker: both are pipes
            prefix = f"[{plan.name}] "
            output = WorkerOutput(
                screen,
                prefix,
                error=keep is not None,
                shows_progress=shows_progress,
                hidden=is_start_up_line if hides_start_up_lines(os.environ) else lambda line: False,
            )
            reader = threading.Thread(target=self._read, args=(stream, output, keep), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read(self, stream: IO[bytes], output: WorkerOutput, keep: deque[str] | None) -> None:
        final = False
        while not final:
            data = os.read(stream.fileno(), 65536)
            final = not data
            if self._log:
                self._log.write(data)
            lines = output.feed(data, final=final)
            if keep is not None:
                keep.extend(lines)

    @property
    def returncode(self) -> int | None:
        """Exit code, or None while it runs."""
        code = self._process.poll()
        if code is not None and self.ended_at is None:
            self.ended_at = time.monotonic()
            self.send(signal.SIGKILL)  # for children that it left behind
            self.join()
        return code

    @property
    def is_stopped(self) -> bool:
        """Whether it is held by SIGSTOP or a debugger (known on Linux only)."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] in ("T", "t")

    def send(self, number: int) -> None:
        """Sends a signal to the worker and its children."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def join(self) -> None:
        """Waits for the rest of its output, but not for long: a grandchild in its own session may hold the pipe."""
        for reader in self._readers:
            reader.join(1.0)

    def failure(self) -> Failure | None:
        """Returns how it failed, or None."""
        code = self.returncode
        if not code or self.ended_at is None:
            return None
        return Failure(name=self.name, returncode=code, stderr=tuple(self.stderr), time=self.ended_at)

    def close(self) -> None:
        """Closes the log file."""
        if self._log:
            self._log.close()


def _open_log(log_dir: Path, plan: WorkerPlan) -> IO[bytes]:
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        return (log_dir / f"worker_{plan.process_index}.log").open("wb", buffering=0)
    except OSError as error:
        raise ConfigError(
            f"cannot write to --log-dir {log_dir}: {error.strerror}. Choose a folder that you may write to."
        ) from None


def _watch(
    workers: Sequence[_Worker],
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


def _fail(workers: Sequence[_Worker], screen: Screen, caught: Sequence[int]) -> int:
    """Ends the run after a failure and prints the error of the worker that failed first."""
    _wait(workers, _EVIDENCE_S, until=lambda: bool(caught))
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


def _interrupt(workers: Sequence[_Worker], screen: Screen, caught: Sequence[int]) -> int:
    """Forwards the caught signal; a second one ends the workers at once."""
    number = caught[0]
    screen.line(f"[tfdist] {signal.Signals(number).name}: ending {_names(workers)}", error=True)
    _end(workers, number, _PREEMPTION_S if number == signal.SIGTERM else _END_S, lambda: len(caught) > 1)
    _end(workers, signal.SIGTERM, _KILL_S, lambda: len(caught) > 1)
    return 128 + number


def _stop(workers: Sequence[_Worker]) -> None:
    _end(workers, signal.SIGTERM, _END_S)
    _end(workers, signal.SIGKILL, _KILL_S)


def _end(
    workers: Sequence[_Worker], number: int, wait_s: float, until: Callable[[], bool] = lambda: False
) -> None:
    """Sends a signal to the workers that run and waits for them."""
    for worker in workers:
        if worker.returncode is None:
            worker.send(number)
            worker.send(signal.SIGCONT)  # a stopped process gets no other signal
    _wait(workers, wait_s, until)


def _wait(workers: Sequence[_Worker], limit_s: float, until: Callable[[], bool]) -> None:
    limit = time.monotonic() + limit_s
    # The list makes the loop look at every worker, so that the time at which each ended is right.
    while None in [worker.returncode for worker in workers] and time.monotonic() < limit and not until():
        time.sleep(_POLL_S)


def _names(workers: Sequence[_Worker]) -> str:
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
