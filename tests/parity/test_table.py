"""The rows and columns of docs/parity.md are those of the register, and every family is tested on every mesh."""

from __future__ import annotations

import pytest
from page import PAGE, page_rows

from tfdist.numerics import BFLOAT16_TOLERANCE, RELATIVE_TOLERANCE
from tfdist.parity.cases.layers import LAYERS, RECURRENT
from tfdist.parity.registry import FAMILIES, MESHES, all_cases
from tfdist.parity.run.suite import Cell
from tfdist.parity.table import COLUMNS, MESH_COLUMNS, REPLICA_COLUMNS, UNMEASURED, agrees, is_on_meshes
from tfdist.parity.tiers import is_wide
from tfdist.parity.topologies import REFERENCE, TOPOLOGIES


def test_every_case_has_a_row():
    assert list(page_rows()) == list(all_cases())


def test_columns_are_the_topologies():
    for name, row in page_rows().items():
        on_meshes = is_on_meshes(all_cases()[name])
        assert set(row) == {*REPLICA_COLUMNS, *(MESH_COLUMNS if on_meshes else ())}, name
    assert {*COLUMNS, REFERENCE.name} == set(TOPOLOGIES)


@pytest.mark.parametrize("column", [name for name in COLUMNS if not TOPOLOGIES[name].stock])
def test_no_failing_cell(column):
    for case in all_cases().values():
        text = page_rows()[case.name].get(column, "")
        if column not in case.topologies:
            assert text == ""
            continue
        if text == UNMEASURED:
            assert column not in case.tested, (
                f"{case.name} is tested on {column}, and the page does not have it"
            )
            continue
        tolerance = BFLOAT16_TOLERANCE if case.family == "precision" else RELATIVE_TOLERANCE
        assert float(text) <= (0.0 if TOPOLOGIES[column].bit_equal else tolerance), f"{case.name}: {text}"


def test_every_family_has_cases():
    assert {case.family for case in all_cases().values()} == set(FAMILIES)


@pytest.mark.parametrize("mesh", MESHES)
def test_every_family_is_tested_on_every_mesh(mesh):
    """But those that a mesh refuses: functions of Python see the rows, and XLA and collectives the replicas."""
    tested = {case.family for case in all_cases().values() if mesh in case.tested}
    assert set(FAMILIES) - tested == {"rows", "compilation"}


@pytest.mark.parametrize(
    ("topology", "missing"),
    [
        ("mirrored_2", set()),
        ("workers_2x1", {"layers", "recurrent"}),  # a replica's layers do not know in which process it is
        ("mesh_2x2", {"rows", "compilation"}),
    ],
)
def test_make_test_has_every_family_in_replicas_on_workers_and_on_a_mesh(topology, missing):
    tested = [case for case in all_cases().values() if topology in case.tested]
    in_test = {case.family for case in tested if not is_wide(case, TOPOLOGIES[topology])}
    assert set(FAMILIES) - in_test == missing


@pytest.mark.parametrize(
    ("cell", "text", "expected"),
    [
        (Cell("ok", 2e-7), "3e-06", True),
        (Cell("ok", 0.0), "0", True),
        (Cell("ok", 2e-7), "FAIL 2e-02", False),
        (Cell("FAIL", 0.02), "FAIL 3e-02", True),
        (Cell("FAIL", 0.02), "FAIL 9e-01", False),
        (Cell("FAIL", 0.0), "FAIL", True),
        (Cell("FAIL", 0.02), "3e-07", False),
        (Cell("error"), "error", True),
        (Cell("error"), "hang", False),
        (Cell("crash"), "2e-07", False),
    ],
)
def test_a_fresh_cell_is_held_against_the_page(cell, text, expected):
    assert agrees(cell, text) is expected


def test_the_page_of_meshes_has_a_row_for_each_layer():
    page = (PAGE.parent / "parallelisms" / "mesh_layers.md").read_text()
    branches = [name for groups in (LAYERS, RECURRENT) for group in groups.values() for name in group]
    assert [name for name in branches if f"| `{name}`: in `" not in page] == []
