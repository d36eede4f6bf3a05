"""A limit on how long a step of several processes may take, because DTensor's collectives wait for ever.

The coordination service does not notice a process that lives but no longer takes part, since its heartbeats go on.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tfdist._internals.processes.coordination import barrier, report_failure
from tfdist.errors import WorkerError
from tfdist.process import num_processes, process_index

# Seconds in which the other processes may answer that they wait in a step too.
_ANSWER_S = 5.0


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
    try:
        barrier("a step that takes too long", _ANSWER_S)
        who = "all workers wait in it; their programs do not fit together"
    except WorkerError as error:
        who = str(error)
    message = f"worker {process_index()}: a step took longer than timeout_s={limit_s:g}: {who}"
    print(f"error: {message}", file=sys.stderr, flush=True)
    report_failure(message)
    os._exit(1)
