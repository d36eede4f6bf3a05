"""How one of several processes ends: it tells the others its error, and after a normal end it waits for them.

If it did not tell its error, the others would see that a process is gone, or wait for the limit of a collective, and
would never learn the cause. If it did not wait, it would break the last collective of a process that is late: the late
one still pulls pieces from the others, and asks the first process who takes part.
"""

from __future__ import annotations

import atexit
import sys
from types import TracebackType

from tfdist._internals.processes import news
from tfdist._internals.processes.coordination import barrier, has_failed, report_failure
from tfdist._internals.processes.place import HERE
from tfdist._internals.processes.roll_call import MismatchError
from tfdist._internals.processes.watch import end_watch, start_watch
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
        named = issubclass(kind, WorkerError)  # these say themselves which worker is the cause
        report_failure(str(error) if named else f"worker {process_index()} failed: {kind.__name__}: {error}")
        shown(kind, error, traceback)

    report_and_show._tfdist = True  # type: ignore[attr-defined]
    sys.excepthook = report_and_show
    news.listen()
    start_watch()
    atexit.register(_end)


def _end() -> None:
    HERE.has_ended = True
    if not has_failed() and news.failure() is None:
        news.in_time(lambda: news.tell("ended"))
        _wait_for_the_others()
    end_watch()
    news.stop_listening()


def _wait_for_the_others() -> None:
    try:
        barrier("the end of the program", _WAIT_S)
    except MismatchError as error:
        # Another process waits for this one in a step, and its main thread cannot look why.
        report_failure(str(error))
    except WorkerError as error:
        LOGGER.info("this process ends before others do: %s", error)
