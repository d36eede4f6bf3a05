"""Runs each layout once per session, with exactly the cases that this session has selected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
def measured_cell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CellReader:
    """Returns a function from (case name, layout name) to the cell; a layout is run when first asked for."""
    folder: Path = tmp_path_factory.mktemp("parity")
    wanted = selected(request.session.items)
    wanted[REFERENCE.name] = sorted({name for names in wanted.values() for name in names})
    done: set[str] = set()

    def read(case_name: str, layout_name: str) -> Cell | None:
        for name in (REFERENCE.name, layout_name):
            if name not in done:
                done.add(name)
                run_layout(LAYOUTS[name], folder, names=wanted[name], report=print)
        return read_cell(folder, LAYOUTS[layout_name], all_cases()[case_name])

    return read
