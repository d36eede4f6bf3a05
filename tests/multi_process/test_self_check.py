"""The self check over two workers: each has the rows of both, dense and sparse, and the chief says that it passed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
import tfdist
strategy = tfdist.create_strategy("multi_worker_mirrored")
import keras
import tensorflow as tf
features, targets = np.eye(10, 4, dtype="float32"), np.ones((10, 3), "float32")
for x in (features, tf.sparse.from_dense(features)):
    with strategy.scope():
        inputs = keras.Input((4,), sparse=x is not features)
        model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
        model.compile("adam", "mse")
    model.fit(tf.data.Dataset.from_tensor_slices((x, targets)).batch(7), verbose=2)
"""


@pytest.mark.processes
@pytest.mark.busy(2)
def test_rows_of_both_workers_are_checked_together(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "tfdist", "launch", "--num-workers", "2", str(script)]
    done = subprocess.run(
        command,
        env=os.environ | {"TFDIST_SELF_CHECK": "on"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (done.stdout + done.stderr).count("self check: a step on 5 rows equals that of one device") == 2
