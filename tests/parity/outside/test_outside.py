"""Strategies that are registered from outside of the package run parity cases as those of the package do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfdist.parity.processes import run_python
from tfdist.parity.registry import all_cases
from tfdist.parity.run.parts import Parts
from tfdist.parity.topologies import TOPOLOGIES, import_module

FILE = Path(__file__).with_name("toy_strategy.py")

CASES = {
    "gathering_2": ("sequential", "uneven_rest", "clipping[global_clipnorm]", "synchronized", "predict"),
    "padding_1": ("sequential", "uneven_rest", "scalar_loss", "masked", "evaluate"),
}
CELLS = [(topology, case) for topology, cases in CASES.items() for case in cases]

pytestmark = [pytest.mark.slow, pytest.mark.busy(0), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def parts(parity_folder, wanted_cells, slots):
    import_module(str(FILE))
    # The reference is that of the other cells, so that it is run once.
    wanted = [*wanted_cells, *((case, name) for name, case in CELLS)]
    found = Parts(parity_folder, wanted, slots, [str(FILE)])
    yield found
    found.close()
    for name in CASES:
        del TOPOLOGIES[name]  # what else this process tests knows the package only


@pytest.mark.parametrize(("topology_name", "case"), CELLS)
def test_a_strategy_from_outside_is_one_device(parts, topology_name, case):
    cell = parts.cell(case, topology_name)
    assert cell.passed, f"{cell.outcome}: {cell.message}"


@pytest.mark.busy(1)
def test_the_command_imports_it(tmp_path):
    command = ["-m", "tfdist.parity", f"--import={FILE}", "--list", "--topologies", "padding_1"]
    done = run_python(command, tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(all_cases())
    wrong = run_python([*command, "nothing"], tmp_path)
    assert wrong.returncode == 2 and "padding_1" in wrong.stderr
