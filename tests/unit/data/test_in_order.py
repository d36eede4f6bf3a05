"""Numbered batches come out in order, each once, whatever arrives, and no wait is without end."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tfdist.data.service.in_order import Arrivals, InOrder, Limits
from tfdist.errors import DataError

COUNT = 40
never = threading.Event()


def run(arriving: Any, **limits: Any) -> tuple[list[str], list[int]]:
    """Returns the batches that came out, and the numbers of those that were prepared here."""
    arrivals = Arrivals(((number, f"batch {number}") for number in arriving), COUNT)
    limits = {"patience_s": 0.05, "silence_s": 60.0} | limits
    in_order = InOrder(
        arrivals,
        COUNT,
        lambda number: f"batch {number}",
        Limits(**limits),
        lambda seconds: DataError("nothing for too long"),
    )
    try:
        return list(in_order), in_order.made_here
    finally:
        arrivals.close()


ALL = [f"batch {number}" for number in range(COUNT)]


def hanging(numbers: Any) -> Iterator[int]:
    yield from numbers
    never.wait()


@pytest.mark.parametrize("seed", range(5))
def test_any_order(seed: int) -> None:
    numbers = list(range(COUNT))
    random.Random(seed).shuffle(numbers)
    assert run(numbers, ahead=COUNT) == (ALL, [])


def test_the_end_is_not_waited_for() -> None:
    assert run(hanging(range(COUNT)), patience_s=30.0) == (ALL, [])


def test_lost_batches_are_prepared_here() -> None:
    kept = [number for number in range(COUNT) if number not in (0, 13, COUNT - 1)]
    assert run(kept) == (ALL, [0, 13, COUNT - 1])
    # The read of a data worker that was killed never ends.
    assert run(hanging(kept)) == (ALL, [0, 13, COUNT - 1])


def test_late_batch_is_not_shown_twice() -> None:
    late = [*range(1, 20), 0, *range(20, COUNT)]
    assert run(late, ahead=8, patience_s=30.0) == (ALL, [0])


def test_a_batch_that_comes_twice_is_shown_once() -> None:
    assert run([0, 0, 1, 1, *range(COUNT)]) == (ALL, [])


def test_silence_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing for too long"):
        run(hanging([]), patience_s=0.01, silence_s=0.0)


def test_error_of_the_service_is_raised() -> None:
    def failing() -> Iterator[int]:
        yield 0
        raise DataError("the row 7 is bad")

    with pytest.raises(DataError, match="the row 7 is bad"):
        run(failing())
