"""A step that fails on a device of a mesh is told at once, and nothing is computed on that mesh after it.

Each case has a process of its own: after such a step TensorFlow may fail in all that follow.
"""

from __future__ import annotations

import pytest

from tfdist.parity.processes import run_python

SCRIPT = """
import sys

import tfdist
from tfdist.devices import make_logical_cpus

make_logical_cpus(4)
rules = {"table/embeddings$": ("model", None), "head/kernel$": (None, "model"), "head/bias$": ("model",)}
mesh = {"split": {"mesh": {"batch": 2, "model": 2}, "layout_map": rules}, "whole": {"mesh": {"batch": 2}}}[sys.argv[1]]
strategy = tfdist.create_strategy("mesh", **mesh)

import keras
import numpy as np
import tensorflow as tf

with strategy.scope():
    layers = [keras.Input((3,), dtype="int32"), keras.layers.Embedding(64, 8, name="table")]
    model = keras.Sequential([*layers, keras.layers.Dense(64, name="head")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

ids = np.random.default_rng(0).integers(0, 64, (24, 3), dtype=np.int32)
wrong = ids.copy()
wrong[5, 1] = 64
do = {
    "fit of one batch": lambda x: model.fit(x[:8], ids[:8], batch_size=8, verbose=0),
    "fit with a bar": lambda x: model.fit(x, ids, batch_size=8, shuffle=False, verbose=2),
    "evaluate": lambda x: model.evaluate(x, ids, batch_size=8, verbose=0),
    "train_on_batch": lambda x: model.train_on_batch(x, ids),
    "predict": lambda x: model.predict(x, verbose=0),
}[sys.argv[2]]
do(ids)
try:
    do(wrong)
except tf.errors.InvalidArgumentError as error:
    assert "is not in [0" in str(error), error
    print("caught the cause")
except tf.errors.CancelledError as error:
    assert "a device of the mesh failed in this step" in str(error), error
    print("caught")
try:
    do(ids)
except tfdist.errors.UnsupportedError as error:
    assert "an earlier step of this process failed on a device" in str(error), error
    print("refused")
model.save(sys.argv[3])
"""


@pytest.mark.parametrize(
    ("mesh", "call", "told"),
    [
        ("split", "fit of one batch", "caught"),
        ("whole", "fit with a bar", "caught"),
        ("split", "evaluate", "caught"),
        ("whole", "train_on_batch", "caught the cause"),
        ("split", "predict", "caught the cause"),
    ],
)
def test_a_step_that_fails_on_a_device(tmp_path, mesh, call, told) -> None:
    """DTensor gives the error to whoever reads a result of the step, and in `fit` only 'cancelled'."""
    done = run_python(["-c", SCRIPT, mesh, call, str(tmp_path / "model.keras")], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert "refused" in lines, lines
    assert told in lines or "caught the cause" in lines, lines
    assert (tmp_path / "model.keras").exists()
