"""One queue for all tests: the longest work first, and no more busy processes than `TEST_JOBS`.

`make test` allows two more than there are cores, since processes that wait for each other leave a core idle, and starts
one worker of pytest more than that, since some tests mostly wait. Whoever computes holds a slot: a test in its own
process one, a test marked `busy(N)` N for the processes that it starts, and parity cases as many as their topology has
processes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfdist.parity.run.slots import Slots
from tfdist.parity.run.template import collect_rarely

DURATIONS = Path(__file__).with_name("durations.json")
_SLOTS = "TFDIST_TEST_SLOTS"
_UNKNOWN_S = 20.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-durations", action="store_true", help=f"write {DURATIONS.name} anew at the end")


def pytest_configure(config: pytest.Config) -> None:
    # The workers of pytest-xdist inherit the folder.
    os.environ.setdefault(_SLOTS, tempfile.mkdtemp(prefix="slots-"))
    # Tests compare whole runs themselves. Those of the self check switch it on.
    os.environ.setdefault("TFDIST_SELF_CHECK", "off")
    # A test that finds the tokens of another one would not tokenize. Those of the cache name a folder.
    os.environ.setdefault("TFDIST_CACHE", "none")
    # A shell's background job ignores Ctrl-C, and so would every process that the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_SPENT] = defaultdict(float)


def _slots() -> Slots:
    return Slots(Path(os.environ[_SLOTS]), int(os.environ.get("TEST_JOBS", "3")))


@pytest.fixture(scope="session")
def slots() -> Slots:
    """The slots that all processes of this session share."""
    return _slots()


@pytest.fixture(autouse=True)
def _plain_keras() -> Iterator[None]:
    """Sets back what `tfdist train` sets for TensorFlow's default strategy, under which other tests run plain Keras."""
    yield
    if "tfdist._internals.step.repeated_rows" in sys.modules:
        import tensorflow as tf

        from tfdist._internals.step.compiled_update import set_compiled_update
        from tfdist._internals.step.repeated_rows import set_repeated_rows

        set_repeated_rows(tf.distribute.get_strategy(), "keep")
        set_compiled_update(tf.distribute.get_strategy(), False)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Gives every test the group that stays in one worker, which is its file if it names none."""
    if item.get_closest_marker("xdist_group") is None:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the longest groups first where several workers take one after the other."""
    if hasattr(config, "workerinput"):
        spent = json.loads(DURATIONS.read_text())
        first = {_group(item): index for index, item in reversed(list(enumerate(items)))}
        items.sort(key=lambda item: (-spent.get(_group(item), _UNKNOWN_S), first[_group(item)]))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Checks that groups stay together, and prepares for many cases in one process."""
    alone = [item.nodeid for item in session.items if not item.nodeid.endswith("@" + _group(item))]
    if alone and session.config.getoption("loadgroup", False):
        raise pytest.UsageError(
            f"pytest-xdist does not group tests: {alone[0]} has no group in its id, and each test would set up its "
            "module anew. pytest 9.2 is known for it (pytest-xdist issue 1386). Install pytest 9.1."
        )
    collect_rarely()


def _group(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    return marker.args[0] if marker else item.path.relative_to(DURATIONS.parent).as_posix()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    marker = item.get_closest_marker("busy")
    with _slots().hold(marker.args[0] if marker else 1):
        return (yield)


_SPENT = pytest.StashKey[defaultdict[str, float]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    report.user_properties.append(("group", _group(item)))
    return report


class _Recorder:
    """Sums the seconds of each group, in the process that has the reports of all workers."""

    def __init__(self, spent: defaultdict[str, float]) -> None:
        self._spent = spent

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._spent[dict(report.user_properties)["group"]] += report.duration


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_Recorder(session.config.stash[_SPENT]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-durations") and not hasattr(session.config, "workerinput"):
        spent = {group: round(seconds, 1) for group, seconds in session.config.stash[_SPENT].items()}
        if session.config.option.markexpr:  # the others were not run
            spent = json.loads(DURATIONS.read_text()) | spent
        DURATIONS.write_text(json.dumps(dict(sorted(spent.items())), indent=1) + "\n")
