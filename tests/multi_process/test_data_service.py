"""`tfdist launch --data-workers`: the results are those without it, also when a data worker dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfdist.numerics import RELATIVE_TOLERANCE, relative_difference

pytestmark = [pytest.mark.processes, pytest.mark.busy(4), pytest.mark.timeout(240)]

SCRIPT = Path(__file__).with_name("data_service_script.py")


def test_results_are_those_without_data_workers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tfdist", "launch", "--num-workers", "2", "--data-workers", "2"]
    command += ["--timeout", "200", "--log-dir", str(tmp_path / "logs"), str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stderr
    assert "data worker 1 has ended (killed by SIGKILL" in done.stderr
    assert "is started again" in done.stderr
    for worker in range(2):
        with np.load(tmp_path / f"worker_{worker}.npz") as found:
            assert len(found.files) == 3 * 7
            for name in found.files:
                alone = found[f"alone {name.split()[1]}"]
                # The batches are the same bit for bit (`tests/multi_device/test_data_service.py`). Once in some twenty
                # runs on a busy machine one weight differed in its last bit.
                difference = relative_difference(found[name], alone)
                assert difference <= RELATIVE_TOLERANCE, f"worker {worker}, {name}: {difference}"
    logs = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert logs == [
        *("data_dispatcher_0.log", "data_worker_0.log", "data_worker_1.log"),
        *("worker_0.log", "worker_1.log"),
    ]
