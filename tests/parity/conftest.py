"""Runs each layout once per session, with exactly the cases that this session has selected.

Most of a case is tracing, which keeps one core busy: two layouts at a time, or one where other tests run beside them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tfdist.testing.layouts import LAYOUTS, REFERENCE
from tfdist.testing.registry import all_cases
from tfdist.testing.suite import Cell, read_cell, run_layout

CellReader = Callable[[str, str], Cell | None]


def selected(items: Iterable[pytest.Item]) -> dict[str, list[str]]:
    """Returns the cases that the selected tests want, by layout."""
    wanted: dict[str, list[str]] = {}
    for item in items:
        values = item.callspec.params if hasattr(item, "callspec") else {}
        if "layout_name" in values and "case_name" in values:
            wanted.setdefault(values["layout_name"], []).append(values["case_name"])
    return wanted


@pytest.fixture(scope="session")
def measured_cell(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CellReader]:
    """Returns a function from (case name, layout name) to the cell; a layout is run when first asked for."""
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    base = tmp_path_factory.getbasetemp()
    folder = (base if alone else base.parent) / "parity"
    folder.mkdir(exist_ok=True)
    wanted = selected(request.session.items)
    reference = sorted({name for names in wanted.values() for name in names})
    with ThreadPoolExecutor(max_workers=2 if alone else 1) as pool:
        runs: dict[str, Future[None]] = {REFERENCE.name: pool.submit(run_once, folder, reference)}

        def run(layout_name: str) -> Future[None]:
            if layout_name not in runs:
                layout, names = LAYOUTS[layout_name], wanted[layout_name]
                runs[layout_name] = pool.submit(run_layout, layout, folder, names=names, report=print)
            return runs[layout_name]

        def read(case_name: str, layout_name: str) -> Cell | None:
            for name in (REFERENCE.name, layout_name):
                run(name).result()
            return read_cell(folder, LAYOUTS[layout_name], all_cases()[case_name])

        for name in wanted if alone else ():
            run(name)
        yield read
        for future in runs.values():
            future.cancel()


def run_once(folder: Path, names: list[str]) -> None:
    """Runs the reference in the first process that asks for it; the others wait."""
    with (folder / "reference.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if lock.tell() == 0:
            run_layout(REFERENCE, folder, names=names, report=print)
            lock.write("done")
