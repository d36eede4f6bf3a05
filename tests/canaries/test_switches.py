"""Parts of DTensor that a mesh switches off are still wrong; each runs in a process of its own, as it is read once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

START = """
import tensorflow as tf
from tensorflow.experimental import dtensor

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
mesh = dtensor.create_mesh([("batch", 2)], devices=["CPU:0", "CPU:1"])
"""

COMBINE = """
from tfdist._internals.mesh.check import check_dtensor

check_dtensor(mesh)
"""

ALL_TO_ALL = """
value = dtensor.copy_to_mesh(tf.ones([4, 4], tf.bool), dtensor.Layout.replicated(mesh, 2))
rows = dtensor.Layout(["batch", dtensor.UNSHARDED], mesh)
columns = dtensor.Layout([dtensor.UNSHARDED, "batch"], mesh)
tf.function(lambda value: dtensor.relayout(dtensor.relayout(value, rows), columns))(value)
"""

SWITCHES = {
    "DTENSOR_ENABLE_COMBINE_ALL_REDUCES_OPTIMIZATION": (COMBINE, "computes wrong optimizer updates"),
    "DTENSOR_USE_ALL_TO_ALL_RELAYOUT": (
        ALL_TO_ALL,
        "'tf.CollectiveAllToAllV2' op operand #0 must be tensor of float",
    ),
}


@pytest.mark.wide
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_part_that_is_switched_off_is_wrong(switch: str) -> None:
    """If this fails, upstream is right: delete the switch in `mesh/start.py`."""
    program, wrong = SWITCHES[switch]
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    run = subprocess.run(
        [sys.executable, "-c", START + program],
        env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert wrong in run.stderr, run.stderr
