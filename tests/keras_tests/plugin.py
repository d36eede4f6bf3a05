"""A pytest plugin that runs Keras's own tests in the scope of a strategy; `run.py` starts pytest with it.

`setUp` of Keras's test cases clears the session, so the scope is entered after that. Modules that are not installed
(JAX, PyTorch, Grain) are replaced while test files are imported. A test that then uses one of them is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from absent import OTHER_BACKENDS, absent_modules
from keras.src.testing import TestCase
from reasons import OWN_DEVICES

import tfdist

STRATEGY, RESULTS = "KERAS_TESTS_STRATEGY", "KERAS_TESTS_RESULTS"


def _create(strategy: str) -> Any:
    if strategy == "plain":
        return None
    options: dict[str, Any] = {"mirrored": {"devices": 2}, "mesh": {"mesh": {"batch": 2, "model": 1}}}
    return tfdist.create_strategy(strategy, **options[strategy])


def pytest_configure(config: pytest.Config) -> None:
    """Makes the strategy before any tensor, and lets the methods of Keras's test cases run in its scope."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # the process that only hands out the tests
    strategy = _create(os.environ[STRATEGY])
    TestCase._callTestMethod = _skipping_absent(TestCase._callTestMethod)
    if strategy is not None:
        TestCase.setUp = _entering(strategy, TestCase.setUp)


def _entering(strategy: Any, stock: Any) -> Any:
    def set_up(self: Any) -> None:
        stock(self)  # clears the session, and with it a scope that is open
        if re.search(OWN_DEVICES, self.id()):
            self.fail("the test makes devices of its own")
        if not hasattr(self, "open_scope"):
            self.addCleanup(lambda: self.open_scope.__exit__(None, None, None))
        self.open_scope = strategy.scope()
        self.open_scope.__enter__()

    return set_up


def _skipping_absent(stock: Any) -> Any:
    def call(self: Any, method: Any) -> None:
        try:
            stock(self, method)
        except ImportError as error:
            if not any(name in str(error) for name in OTHER_BACKENDS):
                raise
            self.skipTest(f"needs another backend: {error}")

    return call


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Imports test files with the absent modules in place."""
    with absent_modules() if isinstance(collector, pytest.Module) else contextlib.nullcontext():
        return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Appends the outcome of a test to the file of results; in the process that has the reports of all."""
    has_outcome = report.when == "call" or not report.passed
    if "PYTEST_XDIST_WORKER" in os.environ or not has_outcome:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    reason = crash.message if crash else str(report.longrepr or "")
    with Path(os.environ[RESULTS]).open("a") as file:
        file.write(json.dumps({"test": report.nodeid, "outcome": report.outcome, "reason": reason}) + "\n")
