"""Watches over a process that waits for the others in a step, where its main thread is in TensorFlow and cannot look.

It is also the limit of such a wait. TensorFlow's own limit of a collective costs a sleeping thread for each execution.

The heartbeats of the coordination service would find a dead process too, but not tell it from one that is stopped for a
moment. So they have the limit of the strategy, and the watch finds the dead: nobody listens at their address any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import tensorflow as tf
from tensorflow.python.eager import context

from tfdist._internals.processes import news
from tfdist._internals.processes.coordination import default_timeout, report_failure
from tfdist._internals.processes.place import HERE, STEPS, Place, in_step
from tfdist._internals.processes.roll_call import (
    GONE,
    contradiction,
    is_gone,
    of_ended,
    overdue,
    raise_failure,
    who_is_missing,
)
from tfdist.errors import WorkerError
from tfdist.process import num_processes, process_index

_EVERY_S = 2.0
# If all processes are in the same step, nobody is missing, and they may be compiling it. So it has so many limits.
_LIMITS_OF_ALL = 10

# What TensorFlow's collectives and its service raise where another process is the cause.
_OF_OTHERS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.InvalidArgumentError,  # collectives of other shapes
    tf.errors.UnavailableError,
)

_over = threading.Event()


def start_watch() -> None:
    """Starts the watch; it ends with `end_watch`."""
    threading.Thread(target=_watch, name="tfdist watch", daemon=True).start()


def end_watch() -> None:
    """Ends the watch."""
    _over.set()


def _watch() -> None:
    while not _over.wait(_EVERY_S):
        waits, waited_s = HERE.waits, time.monotonic() - HERE.since_s
        if not waits or waited_s < _EVERY_S:
            continue
        if news.failure() is not None:
            # The service ends the collectives of all processes, but not if it is in the process that is stopped.
            if waits in STEPS:
                context.context().abort_collective_ops(tf.errors.ABORTED, str(news.failure()))
            continue
        reason = _reason(waits, waited_s)
        if reason is not None:
            report_failure(reason)


def _reason(waits: str, waited_s: float) -> str | None:
    """Returns why this process need not wait any longer, None if it may."""
    if waits == "meeting":  # there the main thread asks by itself
        reason = of_ended()
    else:
        places = news.ask_places(fresh_s=_EVERY_S)
        reason = contradiction(places) or _overdue(waits, waited_s, places)
    # Each process looks at the next one, so that each has one that looks at it.
    neighbour = (process_index() + 1) % num_processes()
    if reason is None and neighbour not in news.ended() and is_gone(neighbour):
        reason = f"worker {neighbour} {GONE}. Look at the end of its output first."
    return reason


def _overdue(waits: str, waited_s: float, places: Mapping[int, Place | None]) -> str | None:
    limit_s = default_timeout()
    missing = any(place is None or place.num_steps < HERE.num_steps for place in places.values())
    if waited_s < limit_s * (1 if missing else _LIMITS_OF_ALL):
        return None
    return overdue(waits, limit_s)


@contextmanager
def shared_step(what: Literal["step", "sum"] = "step") -> Iterator[None]:
    """Surrounds a step, or a sum, in which all processes take part; says in its error which of them is the cause."""
    if num_processes() == 1:
        yield
        return
    with in_step(what), causes_named():
        yield


@contextmanager
def causes_named() -> Iterator[None]:
    """Raises WorkerError, which names the process that is the cause, in place of TensorFlow's error."""
    try:
        yield
    except _OF_OTHERS as error:
        if num_processes() == 1 or not _is_of_others(error):
            raise
        try:
            _wait_for_news(0.5)
            raise_failure()
            reason = who_is_missing()
            # One whose step was broken off at once, as by sums of other shapes, has left it, and is about to say why.
            _wait_for_news(2.0)
            raise_failure()
        except WorkerError as known:
            raise known from error
        raise WorkerError(
            f"the step of worker {process_index()} was broken off: {reason}. TensorFlow says: {error.message[-300:]}"
        ) from error


def _is_of_others(error: tf.errors.OpError) -> bool:
    messages = ("Collective ops is aborted", "Collective has timed out", "CoordinationService")
    told = any(message in error.message for message in messages)
    return told or isinstance(error, tf.errors.UnavailableError)


def _wait_for_news(limit_s: float) -> None:
    begin = time.monotonic()
    while news.failure() is None and time.monotonic() - begin < limit_s:
        time.sleep(0.05)
