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
    "clipping[global_clipnorm]": "weights/.* differs",
    "accumulation[sgd]": "`merge_call` called while defining a new graph",
    "poisoned_row": "scale poisoned 6 is .*not",
    "average[overwriting]": "`merge_call` called while defining a new graph",
    "unsynchronized": "finite 25 is false",
    "random_masks": "all draws of dropout differ is false",
    "rows_seen[generator]": "ids/epoch 0 is .*not",
    "steps_per_execution[2]": "node while/cond/Placeholder",
    "compiled_with_xla": "InvalidArgumentError: Graph execution error",
    "unseeded_random": "only supports singleton tf.Variables",
    "global_state_in_replicas": "true/seen is false",
    "inputs[strings]": "attr 'T' of string is not in the list of allowed values",
    "on_batch": "exact/count of 12 is 24, not 12",
    "train_step_override": "weights/.* differs",
    "collectives_of_a_normalized_model": "three collectives is false",
}
# What only several workers show; there stock fails at the first step, whatever the case.
WORKERS = {"sequential": "Attempt to convert a value .PerReplica"}

CELLS = [("stock_mirrored_2", *one) for one in MIRRORED.items()]
CELLS += [("stock_workers_2x1", *one) for one in WORKERS.items()]


@pytest.mark.slow
@pytest.mark.wide
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
