"""Notebooks run from top to bottom, and the outputs they show are those of a run."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
CELL_TIMEOUT_S = 240


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    # A cell that raises fails the test.
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_shows_its_outputs_and_nothing_of_a_machine(path):
    notebook = nbformat.read(path, as_version=4)
    assert not notebook.metadata
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in code)
    for cell in code:
        assert cell.execution_count is None and not cell.metadata
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]
        assert all(output.output_type != "error" for output in cell.outputs)
