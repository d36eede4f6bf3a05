"""Contestants take turns in processes of their own."""

import sys

import pytest

from tfdist.bench.comparisons import Comparison, Entry, Outcome, _scaled
from tfdist.bench.process import Contestant, ContestantError

# It prints to standard output too, as libraries do, and stops after five steps.
WORKING = """
from tfdist.bench.turns import Ended, Turns
turns = Turns()
turns.info = {"word": "here"}
print("a library speaks", flush=True)
try:
    for number in range(5):
        turns.begin_step()
        turns.end_step(32, number)
    turns.flush()
except Ended:
    pass
turns.done(told=7)
"""


def contestant(code, folder, count=1):
    return Contestant([[sys.executable, "-c", code]] * count, folder, [{}] * count)


def test_steps_are_done_in_turns_and_no_others(tmp_path):
    one = contestant(WORKING, tmp_path)
    assert one.info == {"word": "here"}
    assert [step[1] for step in one.take(2)] == [0, 1]
    # Its epochs end before the turn does.
    assert [step[:2] for step in one.take(9)] == [[32, 2], [32, 3], [32, 4]]
    assert one.end() == {"told": 7}
    one.close()
    assert "a library speaks" in one.log()


def test_end_before_all_steps_are_done(tmp_path):
    pair = contestant(WORKING, tmp_path, count=2)
    pair.take(1)
    assert pair.end() == {"told": 7}
    pair.close()


def test_a_failure_is_told_in_its_own_words(tmp_path):
    with pytest.raises(ContestantError, match="ValueError: no such option"):
        contestant("raise ValueError('no such option')", tmp_path)


def comparison(one, to, **options):
    return Comparison("steps", one, to, 0.9, steps=1, rounds=2, **options)


def test_ratio_of_step_times_is_that_of_a_row():
    one, to = Entry("one", {"rows": 32}), Entry("to", {"rows": 16})
    samples = {"one": [[2.0], [4.0]], "to": [[1.0], [1.0]]}
    # Twice and four times the seconds, for twice the rows.
    assert _scaled(comparison(one, to), samples)["median"] == 1.5


def test_weak_scaling_is_examples_of_each_worker():
    both, alone = Entry("one", {"rows": 32}, [[0], [1]]), Entry("to", {"rows": 16}, [[0]])
    samples = {"one": [[1.25], [1.25]], "to": [[1.0], [1.0]]}
    asked = comparison(both, alone, min_rate=True, per_worker=True)
    found = _scaled(asked, samples)
    assert found["median"] == pytest.approx(0.8)
    assert Outcome(asked, found).reached is False
