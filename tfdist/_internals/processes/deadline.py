"""A limit on how long a step of several processes may take, because DTensor's collectives wait for ever.

The coordination service does not notice a process that lives but no longer takes part, since its heartbeats go on.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tfdist._internals.processes import news
from tfdist._internals.processes.coordination import report_failure
from tfdist._internals.processes.roll_call import overdue
from tfdist.process import num_processes, process_index


@contextmanager
def step_deadline(limit_s: float) -> Iterator[None]:
    """Ends this process, with an error that names who is missing, if the body takes longer than `limit_s` seconds.

    An exception would not help: Python cannot interrupt a wait in TensorFlow.
    """
    if num_processes() == 1:
        yield
        return
    timer = threading.Timer(limit_s, _end, [limit_s])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(limit_s: float) -> None:
    message = news.failure() or overdue("step", limit_s)
    message = f"worker {process_index()}: {message}"
    print(f"error: {message}", file=sys.stderr, flush=True)
    report_failure(message)
    os._exit(1)
