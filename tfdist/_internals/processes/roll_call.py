"""Finds out why a process waits for the others: they are at another place of the program, have ended, or do not answer.

A process that is only late is waited for until the limit. It is an error at once if two processes wait for each other
at different places, if one waits for a process that is gone, or if a process has told that it failed.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence

from tfdist._internals.processes import news
from tfdist._internals.processes.place import HERE, STEPS, Place
from tfdist.errors import WorkerError
from tfdist.process import process_index

# Seconds after which a waiting process asks, and then again; the last number counts for all later times.
_ASK_AFTER_S = (1.0, 2.0, 4.0, 8.0, 15.0)

GONE = "has ended without a word: it was killed, crashed, or called os._exit"

_ROWS = "Their batches have different numbers of rows. Give every worker the same global batches."

_CURE = (
    "All workers must make the same calls: fit, evaluate, predict, and whatever saves or reads weights that are split "
    "over processes, stand outside of `if chief:`, and callbacks that do this are given to every worker."
)

_addresses: Sequence[str] = ()


class MismatchError(WorkerError):
    """A process waits for what can never come, since another has ended or waits elsewhere."""


def set_addresses(addresses: Sequence[str]) -> None:
    """Notes the address of each process, by which it is seen whether the process lives."""
    global _addresses
    _addresses = addresses


def listed(indices: Sequence[int]) -> str:
    """Returns `worker 3`, or `workers 1, 2`."""
    return f"worker{'s' * (len(indices) > 1)} {', '.join(map(str, indices))}"


def contradiction(places: Mapping[int, Place | None]) -> str | None:
    """Returns why the processes can never go on together, None if they may.

    Places may have been noted one after the other: a process that waits stays where it is until the others come.
    """
    known = {index: place for index, place in places.items() if place is not None}
    found = [
        reason
        for index, place in known.items()
        for other, there in known.items()
        if index != other and (reason := _between(index, place, other, there))
    ]
    return min(found, key=len, default=None)


def _between(index: int, place: Place, other: int, there: Place) -> str | None:
    """Returns why a process that waits will never be joined by another, if that is so."""
    if place.has_ended:  # what it has left undone is seen from the other
        return None
    is_in, others_in = place.waits in STEPS, there.waits in STEPS
    missed = place.waits == "meeting" and _times(there, place.meeting) < _times(place, place.meeting)
    behind = is_in and there.num_steps < place.num_steps
    if there.has_ended and (missed or behind):
        return f"worker {other} has ended its program, and worker {index} is {place.describe()}. {_CURE}"
    went_on = missed and others_in and there.num_steps > place.num_steps
    crossed = (
        missed and there.waits == "meeting" and _times(place, there.meeting) < _times(there, there.meeting)
    )
    same = place.waits == there.waits and _names(place) == _names(there)
    differ = is_in and others_in and place.num_steps == there.num_steps and not same
    if not (went_on or crossed or differ):
        return None
    at_batch = ["a batch of" in one.meeting for one in (place, there)]
    sizes = any(at_batch) and all(
        at or one.waits in STEPS for at, one in zip(at_batch, (place, there), strict=True)
    )
    if place.line == there.line and not sizes and _names(place) == _names(there) and there.waits == "step":
        steps = place.calls[-1].num_steps, there.calls[-1].num_steps
        return (
            f"the data of worker {index} ended after step {steps[0]} of {place.calls[-1].name}, and worker {other} has "
            f"data for step {steps[1]}. Give every worker the same data, of which each takes its rows, or set "
            "steps_per_epoch."
        )
    cure = _ROWS if sizes else _CURE
    return f"worker {index} is {place.describe()}, and worker {other} is {there.describe()}. {cure}"


def _names(place: Place) -> list[str]:
    return [call.name for call in place.calls]


def _times(place: Place, meeting: str) -> int:
    return place.num_meetings.get(meeting, 0)


class Patience:
    """How long a process has waited; to be asked again and again while it waits."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._num_asked = 0

    def check(self) -> None:
        """Raises WorkerError if a process has failed, MismatchError if one waits for what can never come."""
        raise_failure()
        raise_if(of_ended())
        wait_s = sum(_ASK_AFTER_S[: self._num_asked + 1])
        wait_s += max(0, self._num_asked + 1 - len(_ASK_AFTER_S)) * _ASK_AFTER_S[-1]
        if time.monotonic() - self._begin >= wait_s:
            self._num_asked += 1
            raise_if(contradiction(news.ask_places(fresh_s=0.5)))


def of_ended() -> str | None:
    """Returns why this process waits for one that has ended, None if it does not."""
    return contradiction({process_index(): Place.read(HERE.sent())} | news.ended())


def raise_if(reason: str | None) -> None:
    """Raises MismatchError with a reason, if there is one; or WorkerError with what a process has told meanwhile."""
    raise_failure()
    if reason:
        raise MismatchError(reason)


def raise_failure() -> None:
    """Raises WorkerError if a process has told that it failed."""
    if (failure := news.failure()) is not None:
        raise WorkerError(failure)


def who_is_missing() -> str:
    """Returns where the other processes are, in words, when this one has waited for too long."""
    places = news.ask_places(fresh_s=0.5)
    found = contradiction(places)
    if found:
        return found
    parts = []
    for index, place in places.items():
        if index == process_index():
            continue
        if place is not None:
            parts.append(f"worker {index} is {place.describe()}")
        elif is_gone(index):
            parts.append(f"worker {index} {GONE}")
        else:
            parts.append(f"worker {index} does not answer: its process or its machine is stopped")
    return "; ".join(parts)


def overdue(what: str, limit_s: float) -> str:
    """Returns, in words, that a step or a sum has waited for its limit, and for whom."""
    return f"a {what} took longer than timeout_s={limit_s:g}: {who_is_missing()}"


def is_gone(index: int) -> bool:
    """Returns whether nobody listens at the address of a process any more; a process that is stopped still does."""
    host, _, port = _addresses[index].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
