"""Every case under every tfdist topology gives what plain Keras gives on one device, and what the page says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from page import page_rows

from tfdist.parity.registry import all_cases
from tfdist.parity.run.parts import part_of
from tfdist.parity.table import agrees
from tfdist.parity.tiers import is_wide
from tfdist.parity.topologies import REFERENCE, TOPOLOGIES

# The quick cases on two mirrored devices are part of `make check`; the rest is not.
QUICK = "mirrored_2"


def cells() -> Iterator[object]:
    for topology in TOPOLOGIES.values():
        if topology.stock or topology == REFERENCE:
            continue
        for case in all_cases().values():
            if topology.name not in case.tested:
                continue
            # The processes of a part hold their slots themselves.
            marks = [
                pytest.mark.xdist_group(f"{topology.name}-{part_of(case, topology)}"),
                pytest.mark.busy(0),
            ]
            if not case.quick or topology.name != QUICK:
                marks.append(pytest.mark.slow)
            if is_wide(case, topology):
                marks.append(pytest.mark.wide)
            if not case.installed:
                marks.append(pytest.mark.skip(reason=f"{case.requires} is not installed"))
            if topology.num_processes > 1:
                marks.append(pytest.mark.processes)
            yield pytest.param(topology.name, case.name, marks=marks, id=f"{topology.name}-{case.name}")


# The first cell of a part waits for what runs beside it.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("topology_name", "case_name"), cells())
def test_case_equals_one_device(topology_name, case_name, measured_cell):
    cell = measured_cell(case_name, topology_name)
    assert cell.passed, f"{cell.outcome}: {cell.message}"
    text = page_rows()[case_name][topology_name]
    assert agrees(cell, text), f"docs/parity.md says {text!r}; write it anew"
