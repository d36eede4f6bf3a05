"""Runs the parity cells that this session has selected; a test waits for its own, so its seconds are its case's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tfdist.parity.run.parts import Parts
from tfdist.parity.run.slots import Slots
from tfdist.parity.run.suite import Cell

CellReader = Callable[[str, str], Cell]


@pytest.fixture(scope="session")
def parity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all cells of this session."""
    folder: Path = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # all workers need the reference, which one of them runs
    return folder / "parity"


@pytest.fixture(scope="session")
def wanted_cells(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """Case and topology of each cell that this session has selected."""
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    return [
        (one["case_name"], one["topology_name"])
        for one in parameters
        if {"case_name", "topology_name"} <= set(one)
    ]


@pytest.fixture(scope="session")
def measured_cell(
    parity_folder: Path, wanted_cells: list[tuple[str, str]], slots: Slots
) -> Iterator[CellReader]:
    """Returns a function from (case name, topology name) to the cell; a part is run when first asked for."""
    parts = Parts(parity_folder, wanted_cells, slots)
    yield parts.cell
    parts.close()
