"""Finds which worker failed first, and what it said itself, from exit codes and the last lines of standard error."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
# TensorFlow's C++ log: `2026-01-31 12:00:00.123456: E file.cc:1]`,
# or `E0000 00:00:1700000000.123456 12 file.cc:1]`.
_CPP_LOG = re.compile(
    r"\d{4}-\d\d-\d\d [\d:.]+: [IWEF] |[IWEF]\d{4} [\d:.]+ .*\.(?:cc|h):\d+\]"
    r"|WARNING: All log messages before absl::|To enable the following instructions: |/job:\w+/"
)
# Messages of a worker that has lost another one.
_PEER_NOISE = re.compile(
    r"Unavailable|Collective ops is aborted|Deadline_?Exceeded|AbortedError|CancelledError|heartbeat"
    r"|coordination ?(?:service|agent)|connection reset by peer|socket closed|failed to connect|WorkerError",
    re.IGNORECASE,
)
_MAX_LINES = 60


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A worker that ended with an error.

    Attributes:
        name: the worker.
        returncode: as `subprocess` gives it: negative for a signal.
        stderr: its last lines of standard error.
        time: when it ended, in seconds; all workers are timed by the same clock.
    """

    name: str
    returncode: int
    stderr: Sequence[str]
    time: float

    @property
    def exit_code(self) -> int:
        """The code as a shell gives it: 128 plus the signal."""
        return self.returncode if self.returncode > 0 else 128 - self.returncode

    @property
    def reason(self) -> str:
        """How it ended, in words."""
        if self.returncode > 0:
            return f"exit code {self.returncode}"
        try:
            name = signal.Signals(-self.returncode).name
        except ValueError:
            name = f"signal {-self.returncode}"
        # The kernel's out-of-memory killer leaves no other trace in the process.
        return f"killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")

    @property
    def is_killed(self) -> bool:
        """Whether a signal from outside ended it; TensorFlow aborts itself when its cluster breaks."""
        return self.returncode < 0 and self.returncode != -signal.SIGABRT

    @property
    def own_error(self) -> str:
        """Its last traceback and what follows it, or its last lines; without C++ log lines if possible."""
        lines = [line for line in self.stderr if not _CPP_LOG.match(line)]
        if self.is_killed:  # it had no time for a traceback; if there is one, it is old
            return "\n".join(lines[-20:]).strip("\n")
        lines = lines or list(self.stderr)
        lines = lines[_start_of_last_traceback(lines) :]
        return "\n".join(lines[-_MAX_LINES:]).strip("\n")

    @property
    def is_peer_noise(self) -> bool:
        """Whether it only reports that another worker went away."""
        if self.is_killed:
            return False
        lines = self.own_error.splitlines() if _TRACEBACK in self.own_error else self.stderr
        # The message is in the last lines of a traceback. The lines of code above them may quote anything.
        return _PEER_NOISE.search("\n".join(line for line in lines if not line.startswith("  "))) is not None


def first_cause(failures: Sequence[Failure]) -> Failure:
    """Returns the failure that brought the others down: the earliest one that does not report a lost worker."""
    ordered = sorted(failures, key=lambda failure: failure.time)
    return next((failure for failure in ordered if not failure.is_peer_noise), ordered[0])


def _start_of_last_traceback(lines: Sequence[str]) -> int:
    """Returns where the last traceback begins, or those chained to it; without one, where a short tail begins."""
    starts = [number for number, line in enumerate(lines) if _TRACEBACK in line]
    if not starts:
        return max(0, len(lines) - 20)
    start = starts.pop()
    while starts and any(line.startswith(_CHAINED) for line in lines[starts[-1] : start]):
        start = starts.pop()
    return start
