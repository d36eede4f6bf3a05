"""Runs each layout once per session, with exactly the cases that this session has selected; two layouts at a time.

Most of a case is tracing, which keeps one core busy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tfdist.parity.registry import all_cases
from tfdist.parity.suite import Cell, read_cell, run_layout
from tfdist.parity.topologies import LAYOUTS, REFERENCE

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
    folder: Path = tmp_path_factory.mktemp("parity")
    wanted = selected(request.session.items)
    wanted[REFERENCE.name] = sorted({name for names in wanted.values() for name in names})
    with ThreadPoolExecutor(max_workers=2) as pool:
        runs = {
            name: pool.submit(run_layout, LAYOUTS[name], folder, names=names, report=print)
            for name, names in sorted(wanted.items(), key=lambda entry: entry[0] != REFERENCE.name)
        }

        def read(case_name: str, layout_name: str) -> Cell | None:
            for name in (REFERENCE.name, layout_name):
                runs[name].result()
            return read_cell(folder, LAYOUTS[layout_name], all_cases()[case_name])

        yield read
        for run in runs.values():
            run.cancel()
