"""Each patch of Keras is still needed: stock, in a process of its own without any patch, is wrong or crashes.

A failure here is good news. Upstream is right now; delete the patch and its line.
"""

from __future__ import annotations

import pytest

from tfdist._internals.registry import list_patches
from tfdist.parity.registry import all_cases
from tfdist.parity.suite import read_cell, run_layout
from tfdist.parity.topologies import LAYOUTS, REFERENCE

# Module of tfdist/_internals -> the parity cases that stock MirroredStrategy of 2 devices fails without it.
STOCK_FAILS = {
    "losses": ("masked[sum_over_batch_size]",),
    "metrics": ("train_step_override[uneven]",),
    "variables": ("unsynchronized[24]",),
    "optimizers": ("clipping[global_clipnorm]", "accumulation[sgd]"),
    "loss_scaling": ("poisoned_row",),
    "batch_statistics": ("collectives_of_a_normalized_model",),
    "seeds": ("random_masks[dropout]",),
    "symbolic_build": ("inputs[strings]",),
    "epoch_iterator": ("uneven_rest",),
    "train_function": ("steps_per_execution[2]",),
    "predict_function": ("on_batch[12]",),
    "keras_state": ("global_state_in_replicas", "unseeded_random"),
}
# What only several workers show; there stock fails at the first step, whatever the case.
STOCK_WORKERS_FAIL = {"fit": ("sequential",)}
# What is no wrong result; its own test says when stock has caught up.
SHOWN_ELSEWHERE = {
    "device_input": "tests/multi_device",
    "random_by_row": "tests/canaries/test_patches.py",
    "unrolled_rnn": "tests/canaries/test_patches.py",
    "mesh_layers": "tests/canaries/test_patches.py",
    "mesh_lookup": "tests/canaries/test_patches.py",
    "mesh_ops": "tests/canaries/test_patches.py",
    "mesh_results": "tests/canaries/test_patches.py",
}


def test_every_patch_has_a_canary():
    patched = {patch.name for patch in list_patches()}
    assert patched - {"keras_state"} <= {*STOCK_FAILS, *STOCK_WORKERS_FAIL, *SHOWN_ELSEWHERE}


@pytest.fixture(scope="module")
def stock_cell(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("canaries")
    alone = {case for cases in STOCK_FAILS.values() for case in cases}
    workers = {case for cases in STOCK_WORKERS_FAIL.values() for case in cases}
    run_layout(REFERENCE, folder, names=alone | workers)
    run_layout(LAYOUTS["stock_mirrored_2"], folder, names=alone)
    run_layout(LAYOUTS["stock_workers_2x1"], folder, names=workers)
    return lambda layout, case: read_cell(folder, LAYOUTS[layout], all_cases()[case])


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("layout", "case"),
    [("stock_mirrored_2", case) for cases in STOCK_FAILS.values() for case in cases]
    + [("stock_workers_2x1", case) for cases in STOCK_WORKERS_FAIL.values() for case in cases],
)
def test_stock_still_fails(stock_cell, layout, case):
    cell = stock_cell(layout, case)
    assert cell is not None and not cell.passed, f"stock is right about {case!r} now: the patch can go"
