"""How one of several processes ends: it tells the others its error, and after a normal end it waits for them.

If it did not tell its error, the others would see that a process is gone, or wait for the limit of a collective, and
would never learn the cause. If it did not wait, it would break the last collective of a process that is late: the late
one still pulls pieces from the others, and asks the first process who takes part.
"""

from __future__ import annotations

import atexit
import sys
from types import TracebackType

import tensorflow as tf

from tfdist._internals.processes.coordination import barrier, has_failed, report_failure
from tfdist.errors import WorkerError
from tfdist.log import LOGGER
from tfdist.process import process_index

# Short, because a `sys.exit(3)` after the training cannot be told from a normal end, and the others must see it soon.
# A process that is later than this is at work of its own: `fit`, `evaluate` and `predict` end together.
_WAIT_S = 10.0


def watch_process_end() -> None:
    """Makes this process tell its error and wait at its end; a second call changes nothing."""
    shown = sys.excepthook
    if getattr(shown, "_tfdist", False):
        return

    def report_and_show(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        report_failure(f"worker {process_index()} failed: {kind.__name__}: {error}")
        shown(kind, error, traceback)

    report_and_show._tfdist = True  # type: ignore[attr-defined]
    sys.excepthook = report_and_show
    atexit.register(_wait_for_the_others)


def _wait_for_the_others() -> None:
    if has_failed():
        return
    try:
        barrier("the end of the program", _WAIT_S)
    except WorkerError as error:
        # Any other error means that all processes had arrived. The first process runs the service, and it left before
        # its answer reached this one.
        if isinstance(error.__cause__, tf.errors.DeadlineExceededError):
            LOGGER.info("this process ends before others do: %s", error)
