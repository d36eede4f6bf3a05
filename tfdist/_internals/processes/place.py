"""Where this process is: in which call, step or meeting of the processes, and at which line of the user's program.

Each process notes it as it goes, which costs no message. It is sent when another process waits and asks.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

# Code below these folders is not the user's.
_LIBRARIES = ("site-packages", "dist-packages", str(Path(threading.__file__).parent), "<")
_OWN = str(Path(__file__).parents[2])

# What all processes compute together.
STEPS = ("step", "sum")


@dataclass
class Call:
    """A call that all processes make, and how many steps it has begun."""

    name: str
    num_steps: int = 0


@dataclass
class Place:
    """Where a process is.

    Attributes:
        calls: The open calls, the outermost first.
        num_steps: Steps, and sums over the workers between them, that were ever begun.
        num_meetings: Name of a meeting -> how often it was come to.
        waits: What it is in that needs the other processes, if anything; a sum is one outside of a step, such as the
            reading of a metric.
        meeting: The name of the meeting, if it is in one.
        since_s: Seconds for which it has been in this.
        line: The line of the user's program.
        has_ended: Whether the program is at its end.
    """

    calls: list[Call] = field(default_factory=list)
    num_steps: int = 0
    num_meetings: dict[str, int] = field(default_factory=dict)
    waits: Literal["", "step", "sum", "meeting"] = ""
    meeting: str = ""
    since_s: float = 0.0
    line: str = ""
    has_ended: bool = False

    @classmethod
    def read(cls, found: dict[str, Any]) -> Place:
        """Returns the place that another process has sent."""
        return cls(**found | {"calls": [Call(**call) for call in found["calls"]]})

    def sent(self) -> dict[str, Any]:
        """Returns this place, ready for JSON, with its line and time as of now."""
        return asdict(self) | {"since_s": time.monotonic() - self.since_s, "line": _line_of_user()}

    def describe(self) -> str:
        """Returns the place in words, such as `in step 3 of fit (train.py:20, in on_epoch_end)`."""
        calls = " in ".join(call.name for call in reversed(self.calls))
        if self.has_ended:
            return "at the end of its program"
        if self.waits == "step" and self.calls:
            text = f"in step {self.calls[-1].num_steps} of {calls}"
        elif self.waits in STEPS:
            text = f"in a {self.waits} over all workers" + (f" in {calls}" if calls else "")
        elif self.waits == "meeting":
            text = f"at {self.meeting.rpartition('/')[2]!r}" + (f" in {calls}" if calls else "")
        else:
            text = f"in {calls}" if calls else "in its own code"
            text += f" for {self.since_s:.0f} s"
        return text + (f" ({self.line})" if self.line else "")


HERE = Place(since_s=time.monotonic())


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def in_call(name: str) -> Iterator[None]:
    """Surrounds a call that all processes make: fit, evaluate, predict."""
    if not _is_main():
        yield
        return
    HERE.calls.append(Call(name))
    try:
        yield
    finally:
        HERE.calls.pop()


@contextmanager
def in_meeting(name: str) -> Iterator[int]:
    """Surrounds a meeting of the processes; yields how often this process has come to one of this name."""
    number = HERE.num_meetings[name] = HERE.num_meetings.get(name, 0) + 1
    if not _is_main():
        yield number
        return
    with _waiting("meeting", name):
        yield number


@contextmanager
def in_step(what: Literal["step", "sum"] = "step") -> Iterator[None]:
    """Surrounds a step that needs all processes, or a sum over them."""
    if not _is_main() or HERE.waits == "step":
        yield
        return
    _count(what, 1)
    try:
        with _waiting(what, HERE.meeting):
            yield
    except BaseException:
        _count(what, -1)  # at the end of the data there was no step
        raise


def _count(what: str, number: int) -> None:
    HERE.num_steps += number
    if HERE.calls and what == "step":
        HERE.calls[-1].num_steps += number


@contextmanager
def _waiting(what: Literal["step", "sum", "meeting"], meeting: str) -> Iterator[None]:
    before = HERE.waits, HERE.meeting
    HERE.waits, HERE.meeting, HERE.since_s = what, meeting, time.monotonic()
    try:
        yield
    finally:
        (HERE.waits, HERE.meeting), HERE.since_s = before, time.monotonic()


def _line_of_user() -> str:
    """Returns the innermost line of the user's own code that the main thread is at."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if _is_users(frame):
            return _describe(frame, frame.f_lineno)
        frame = frame.f_back
    return ""


def line_of(error: BaseException) -> str:
    """Returns the innermost line of the user's own code from which an error came, as ` (train.py:20)`."""
    lines = [
        _describe(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_users(frame)
    ]
    return f" ({lines[-1]})" if lines else ""


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return not file.startswith(_OWN) and not any(part in file for part in _LIBRARIES)


def _describe(frame: FrameType, line: int) -> str:
    name = frame.f_code.co_name
    return f"{Path(frame.f_code.co_filename).name}:{line}" + (f", in {name}" if name != "<module>" else "")
