"""How a process of several ends: what it dies of is told to the others, and after a normal end it waits for them.

Without the first the others see that a process is gone, or wait for the limit of a collective, and never learn the
cause. Without the second a process that is done breaks the last collective of one that is late: its pieces are still
pulled from here, and every collective asks the first process who takes part.
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

# Short, since `sys.exit(3)` after the training looks the same from here, and the others must see it soon. Whoever is
# later than this works alone: `fit`, `evaluate` and `predict` end together.
_WAIT_S = 10.0


def watch_process_end() -> None:
    """Installs both; a second call changes nothing."""
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
        # Else they have been here, and the first process, which has the service, left before this one heard of it.
        if isinstance(error.__cause__, tf.errors.DeadlineExceededError):
            LOGGER.info("this process ends before others do: %s", error)
