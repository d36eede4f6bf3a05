"""Two processes wait for each other at different places, or one waits for a late one: told from their places alone."""

from __future__ import annotations

from typing import Any

import pytest

from tfdist._internals.processes.place import Call, Place
from tfdist._internals.processes.roll_call import contradiction


def at(
    waits: Any, steps: int, *, meetings: int = 0, line: str = "", ended: bool = False, calls: str = "fit"
) -> Place:
    found = [Call(name, steps) for name in calls.split()]
    meeting = "the end" if waits == "meeting" else ""
    return Place(found, steps, {"the end": meetings}, waits, meeting, 1.0, line, ended)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (at("meeting", 5, meetings=1), at("", 5)),  # a slow callback
        (at("meeting", 5, meetings=1), at("step", 5)),  # the same step is still running
        (at("meeting", 5, meetings=1), at("step", 4)),
        (at("step", 6), at("", 5)),
        (at("step", 6), at("meeting", 6, meetings=1)),
        (at("step", 6), at("step", 5)),
        (at("meeting", 5, meetings=1), at("meeting", 5, meetings=1)),
        (at("", 5), at("", 5, ended=True)),
        (at("step", 5), at("meeting", 5, meetings=1, ended=True)),  # it has done its part of the step
        (at("step", 6), None),  # one that does not answer is waited for
    ],
)
def test_who_is_only_late_is_waited_for(one: Place, other: Place | None) -> None:
    assert contradiction({0: one, 1: other}) is None
    assert contradiction({0: other, 1: one}) is None


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (
            at("meeting", 5, meetings=1, line="a.py:3"),
            at("step", 6),
            "worker 0 is at 'the end' in fit (a.py:3)",
        ),
        (at("meeting", 5, meetings=1), at("step", 6), "the data of worker 0 ended after step 5 of fit"),
        (at("sum", 6), at("step", 6), "the data of worker 0 ended after step 6 of fit"),
        (at("sum", 6, line="a.py:3"), at("step", 6), "worker 0 is in a sum over all workers in fit (a.py:3)"),
        (at("step", 6), at("step", 6, calls="fit evaluate"), "worker 1 is in step 6 of evaluate in fit"),
        (
            at("meeting", 5, meetings=1),
            at("", 5, ended=True),
            "worker 1 has ended its program, and worker 0 is at",
        ),
        (at("step", 6), at("", 5, ended=True), "worker 1 has ended its program, and worker 0 is in step 6"),
    ],
)
def test_who_can_never_come_is_named(one: Place, other: Place, told: str) -> None:
    assert told in str(contradiction({0: one, 1: other}))
    # The message does not depend on which of the two is asked first.
    swapped = told.translate(str.maketrans("01", "10"))
    assert swapped.replace("a.py:3", "") in str(contradiction({0: other, 1: one})).replace("a.py:3", "")


def test_two_meetings_cross() -> None:
    one = Place([Call("fit", 5)], 5, {"a": 1}, "meeting", "a", 1.0)
    other = Place([Call("fit", 5)], 5, {"b": 1}, "meeting", "b", 1.0)
    found = str(contradiction({0: one, 1: other}))
    assert "worker 0 is at 'a' in fit" in found and "worker 1 is at 'b' in fit" in found


def test_a_place_survives_the_way_to_another_process() -> None:
    place = at("step", 6, calls="fit evaluate")
    sent = place.sent()
    assert Place.read(sent).calls == place.calls
    assert sent["line"].startswith("test_roll_call.py:")
