"""TensorFlow's own strategies, without any patch, are wrong where tfdist mends them, as the page says.

So the harness is sharp enough to see each defect. A failure here is good news: stock is right now, and what mends it
can go.
"""

from __future__ import annotations

import pytest
from page import page_rows

from tfdist.parity.table import agrees

# Case -> what the cell says.
MIRRORED = {
    "masked": "history/.* differs",
    "scalar_loss": "weights/.* differs",
    "uneven_rest": "weights/.* differs",
    "clipping[global_clipnorm]": "ERROR",
    "accumulation[sgd]": "ERROR",
    "poisoned_row": "ERROR",
    "average[overwriting]": "ERROR",
    "unsynchronized": "ERROR",
    "random_masks": "ERROR",
    "rows_seen[generator]": "ERROR",
    "steps_per_execution[2]": "ERROR",
    "compiled_with_xla": "ERROR",
    "unseeded_random": "ERROR",
    "global_state_in_replicas": "ERROR",
    "inputs[strings]": "ERROR",
    "on_batch": "ERROR",
    "train_step_override": "ERROR",
    "collectives_of_a_normalized_model": "ERROR",
}
# What only several workers show; there stock fails at the first step, whatever the case.
WORKERS = {"sequential": "ERROR"}

CELLS = [("stock_mirrored_2", *one) for one in MIRRORED.items()]
CELLS += [("stock_workers_2x1", *one) for one in WORKERS.items()]


@pytest.mark.slow
@pytest.mark.busy(0)
@pytest.mark.timeout(1200)
@pytest.mark.xdist_group("stock")
@pytest.mark.parametrize(("topology_name", "case_name", "error"), CELLS)
def test_stock_still_fails(topology_name, case_name, error, measured_cell):
    cell = measured_cell(case_name, topology_name)
    assert not cell.passed, f"stock is right about {case_name!r} now"
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(f"{cell.outcome} {cell.message}")
    text = page_rows()[case_name][topology_name]
    assert agrees(cell, text), f"docs/parity.md says {text!r}, and it is {cell.outcome} {cell.difference:.0e}"
