"""Every case under every tfdist layout gives what plain Keras gives on one device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tfdist.parity.registry import all_cases
from tfdist.parity.topologies import LAYOUTS, REFERENCE

# The quick cases on two mirrored devices are part of `make check`; the rest is not.
QUICK_LAYOUT = "mirrored_2"


def cells() -> Iterator[object]:
    for layout in LAYOUTS.values():
        if layout.stock or layout == REFERENCE:
            continue
        for case in all_cases().values():
            if layout.name not in case.tested:
                continue
            quick = case.quick and layout.name == QUICK_LAYOUT
            marks = [] if quick else [pytest.mark.slow]
            if not case.installed:
                marks.append(pytest.mark.skip(reason=f"{case.requires} is not installed"))
            if layout.num_processes > 1:
                marks.append(pytest.mark.processes)
            yield pytest.param(layout.name, case.name, marks=marks, id=f"{layout.name}-{case.name}")


# The first cell of a layout waits for the whole layout, and for what runs beside it.
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("layout_name", "case_name"), cells())
def test_case_equals_one_device(layout_name, case_name, measured_cell):
    cell = measured_cell(case_name, layout_name)
    assert cell is not None, "the case was not run"
    assert cell.passed, f"{cell.outcome}: {cell.message}"
