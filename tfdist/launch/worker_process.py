"""A process that a launcher has started, and the threads that read its output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Literal

from tfdist.errors import ConfigError
from tfdist.launch.failure import Failure
from tfdist.launch.screen import Screen, WorkerOutput
from tfdist.launch.start_up_lines import hides_start_up_lines, is_start_up_line
from tfdist.launch.worker_plan import WorkerPlan

_POLL_S = 0.05


class WorkerProcess:
    """A running worker process in a session of its own, and the threads that read its output."""

    def __init__(
        self,
        plan: WorkerPlan,
        screen: Screen,
        log_dir: Path | None,
        *,
        shows_progress: bool,
        log_goes_on: bool = False,
    ) -> None:
        self.name = plan.name
        self.ended_at: float | None = None
        self.stderr: deque[str] = deque(maxlen=400)
        self._log = _open_log(log_dir, plan, "ab" if log_goes_on else "wb") if log_dir else None
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


def _open_log(log_dir: Path, plan: WorkerPlan, mode: Literal["ab", "wb"]) -> IO[bytes]:
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        return (log_dir / f"{plan.name.replace(' ', '_')}.log").open(mode, buffering=0)
    except OSError as error:
        raise ConfigError(
            f"cannot write to --log-dir {log_dir}: {error.strerror}. Choose a folder that you may write to."
        ) from None


def end_all(
    workers: Sequence[WorkerProcess], number: int, wait_s: float, until: Callable[[], bool] = lambda: False
) -> None:
    """Sends a signal to the workers that run and waits for them."""
    for worker in workers:
        if worker.returncode is None:
            worker.send(number)
            worker.send(signal.SIGCONT)  # a stopped process gets no other signal
    wait_for_all(workers, wait_s, until)


def wait_for_all(workers: Sequence[WorkerProcess], limit_s: float, until: Callable[[], bool]) -> None:
    """Waits until all have ended, at most `limit_s` seconds, or until `until()` is true."""
    limit = time.monotonic() + limit_s
    # The list makes the loop look at every worker, so that the time at which each ended is right.
    while None in [worker.returncode for worker in workers] and time.monotonic() < limit and not until():
        time.sleep(_POLL_S)
