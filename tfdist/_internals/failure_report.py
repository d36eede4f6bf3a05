"""Tells the other workers why this one dies, at the moment it dies of an exception that nobody caught.

Without it the others see that a process is gone, or wait for the limit of a collective, and never learn the cause.
"""

from __future__ import annotations

import sys
from types import TracebackType

from tfdist._internals.coordination import report_failure
from tfdist.runtime.process import process_index


def report_failure_at_exit() -> None:
    """Installs the report in front of whatever prints uncaught exceptions; a second call changes nothing."""
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
