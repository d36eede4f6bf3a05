"""The page docs/parity.md is held against the register: every case and layout, and no failing tfdist cell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tfdist.parity.comparison import RELATIVE_TOLERANCE
from tfdist.parity.registry import all_cases
from tfdist.parity.table import COLUMNS, MESH_COLUMNS, ORACLES, REPLICA_COLUMNS
from tfdist.parity.topologies import LAYOUTS, REFERENCE

PAGE = Path(__file__).parents[2] / "docs" / "parity.md"


def page_rows() -> dict[str, dict[str, str]]:
    """Returns the cells of the page by case and column."""
    rows: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| Case |"):
            columns = cells[1:]
        elif found := re.match(r"\| `(.+?)`", line):
            row = rows.setdefault(found[1], {})
            assert not set(row) & set(columns), f"{found[1]} has two rows"
            row.update(zip(columns, cells[1:], strict=True))
    return rows


def test_every_case_has_a_row():
    assert list(page_rows()) == list(all_cases())


def test_columns_are_the_layouts():
    for name, row in page_rows().items():
        on_meshes = set(MESH_COLUMNS) & set(all_cases()[name].layouts)
        assert set(row) == set(REPLICA_COLUMNS) | (set(MESH_COLUMNS) if on_meshes else set()), name
    assert set(COLUMNS) | {REFERENCE.name} == set(LAYOUTS)


def test_every_oracle_has_a_heading():
    assert {case.oracle for case in all_cases().values()} <= set(ORACLES)


@pytest.mark.parametrize("column", [name for name in COLUMNS if not LAYOUTS[name].stock])
def test_no_failing_cell(column):
    rows = page_rows()
    for case in all_cases().values():
        text = rows[case.name].get(column, "")
        if column in case.layouts:
            assert float(text) <= LAYOUTS[column].tolerance <= RELATIVE_TOLERANCE, f"{case.name}: {text}"
        else:
            assert text == ""


def test_stock_fails_where_tfdist_mends():
    """The harness is sharp enough to see each defect of stock that it is there for."""
    rows = page_rows()
    for name in (
        "uneven_rest",
        "masked[sum_over_batch_size]",
        "scalar_loss[even]",
        "clipping[global_clipnorm]",
        "accumulation[sgd]",
        "poisoned_row",
        "average[overwriting]",
        "unsynchronized[24]",
        "random_masks[dropout]",
        "rows_seen[generator]",
        "steps_per_execution[2]",
        "compiled_with_xla[even]",
        "unseeded_random",
        "global_state_in_replicas",
    ):
        assert rows[name]["stock_mirrored_2"].split()[0] in ("FAIL", "error", "crash", "hang"), name
