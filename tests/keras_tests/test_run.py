"""What `make keras-tests` makes of outcomes; and its page, which has a reason for each failure.

The tests of Keras themselves are not run here, since they must be downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

PLAIN = {
    "losses/a_test.py::A::test_1": "passed",
    "losses/a_test.py::A::test_2": "failed",
    "trainers/data_adapters/b_test.py::B::test_3": "passed",
    "trainers/data_adapters/b_test.py::B::test_4": "skipped",
}
BROKEN = {"losses/a_test.py::A::test_1": "failed", "losses/a_test.py::A::test_2": "failed"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(HERE)
    import run

    yield run
    for name in ("run", "reasons"):
        sys.modules.pop(name, None)


def test_what_plain_keras_fails_does_not_count_and_what_has_no_outcome_fails(run) -> None:
    assert run.failures(PLAIN, BROKEN) == [
        "losses/a_test.py::A::test_1",
        "trainers/data_adapters/b_test.py::B::test_3",
    ]
    assert run.failures(PLAIN, PLAIN) == []


def test_the_table_counts_by_subject(run) -> None:
    assert run.table(PLAIN, {"mirrored": PLAIN, "mesh": BROKEN})[2:] == [
        "| trainers/data_adapters | 1 | 0 | 1 |",
        "| losses | 1 | 0 | 1 |",
        "| all | 2 | 0 | 2 |",
    ]


def test_a_failure_is_listed_under_its_reason_or_reported(run, monkeypatch) -> None:
    reason = run.REASONS[0].__class__(r"test_1$", "It is so.", ("mesh",))
    monkeypatch.setattr(run, "REASONS", (reason,))
    lines, unexplained = run.explained(PLAIN, {"mirrored": BROKEN, "mesh": BROKEN})
    assert lines == ["- It is so.", "  - `test_1`: mesh 2x1"]
    assert [failure.rpartition("::")[2] for failure in unexplained if failure.startswith("mesh")] == [
        "test_3"
    ]
    assert len([failure for failure in unexplained if failure.startswith("mirrored")]) == 2


def test_the_page_has_the_table_and_a_reason_for_every_failure(run) -> None:
    text = run.PAGE.read_text()
    rows = {
        row.split("|")[1].strip(): row.split("|")[2:-1] for row in text.splitlines() if row.startswith("| ")
    }
    assert {*run.SUBJECTS, "all"} <= set(rows)
    for column in range(1 + len(run.STRATEGIES)):
        assert sum(int(rows[subject][column]) for subject in run.SUBJECTS) == int(rows["all"][column])
    assert int(rows["all"][0]) > 1000
    listed = text.partition("## What fails, and why")[2]
    assert [listed.count(name) for name in run.STRATEGIES.values()] == list(map(int, rows["all"][1:]))
    for reason in run.REASONS:
        assert reason.why in text, "a reason that no failure has"


def test_modules_of_other_backends_are_there_while_test_files_are_imported(monkeypatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    import absent

    monkeypatch.setattr(absent, "OTHER_BACKENDS", ("no_such_backend",))
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    with absent.absent_modules():
        import no_such_backend
        import no_such_backend.experimental.sparse as sparse

        assert type(no_such_backend).__name__ == "_Absent"

        class Source(no_such_backend.data.Source):
            """As a test file defines one."""

    assert "no_such_backend" not in sys.modules
    assert Source.__mro__ == (Source, object)
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "a test")
    with pytest.raises(pytest.skip.Exception, match="needs no_such_backend"):
        sparse.BCOO  # noqa: B018
