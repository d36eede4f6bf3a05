"""`tfdist test --script` runs a training script up to its self check."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tfdist.parity.processes import run_python

SCRIPT = """
import sys
import keras, numpy as np, tensorflow as tf
import tfdist

strategy = tfdist.create_strategy("mirrored", devices=2)


class Noise(keras.layers.Layer):
    def call(self, inputs):
        return inputs + tf.random.normal(tf.shape(inputs), stddev=100.0)


def summed(labels, outputs):
    return tf.reduce_sum(tf.square(labels - outputs))


kind = sys.argv[1]
with strategy.scope():
    middle = [Noise()] if kind == "random" else []
    model = keras.Sequential([keras.Input((4,)), *middle, keras.layers.Dense(1)])
    model.compile("sgd", summed if kind == "wrong" else "mse")
if kind != "untrained":
    model.fit(np.ones((12, 4)), np.arange(12.0)[:, None], batch_size=6)
print("trained")
"""

SAID = {
    "right": (0, "equals that of one device.*stopped before its first step"),
    "wrong": (1, "is not the step of one device"),
    "random": (1, "not done, since two runs of it on one device differ"),
    "untrained": (1, "no training step was checked"),
}


@pytest.mark.parametrize("kind", SAID)
def test_script_ends_at_its_check(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = run_python(["-m", "tfdist", "test", "--script", str(script), kind], tmp_path, limit_s=120)
    code, said = SAID[kind]
    assert done.returncode == code, done.stderr
    lines = " ".join((done.stdout + done.stderr).split())
    assert re.search(said, lines), lines
    assert ("trained" in done.stdout) == (kind == "untrained")
