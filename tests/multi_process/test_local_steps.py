"""Two workers take local steps: the same in NumPy; what is evaluated, saved and read within an epoch; a quarrel."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from local_oracle import LocalTraining, Outer, local_training

from tfdist.parity.processes import ProcessGroup, worker_environments

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.busy(2), pytest.mark.timeout(240)]

CLOSE = {"rtol": 1e-6, "atol": 1e-7}

SCRIPT = """
import json, os, pathlib, sys

import keras
import numpy as np
import tfdist
import tensorflow as tf

if sys.argv[1:] == ["disagree"]:
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    tfdist.create_strategy("multi_worker_mirrored", timeout_s=60, local_steps=2 + index)
strategy = tfdist.create_strategy(
    "multi_worker_mirrored", timeout_s=60, local_steps=3, outer_optimizer="nesterov", outer_learning_rate=0.5
)
from tfdist.process import process_index

me, here = process_index(), pathlib.Path(__file__).parent
data = np.load(here / "data.npz")
x, y = data["x"], data["y"]
found = {}


def build():
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layer = keras.layers.Dense(2, use_bias=False, dtype="float64")
        model = keras.Sequential([keras.layers.Input((4,), dtype="float64"), layer])
        layer.kernel.assign(data["weights"])
        model.compile(keras.optimizers.Adam(0.1), "mse")
    return model


class WithinAnEpoch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.params["epochs"] > 1:
            return
        if batch == 0 and me == 0:
            self.model.get_weights()  # of this worker's replica, which is told
        if batch == 1:
            found["evaluated"] = self.model.evaluate(x, y, verbose=0)
        if batch == 3:
            tfdist.average_weights(self.model)
            found["within"] = self.model.get_weights()[0]


model = build()
history = model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, validation_data=(x, y))
found["loss"], found["val_loss"] = history.history["loss"], history.history["val_loss"]
found["whole"] = model.get_weights()[0]
checkpoint = keras.callbacks.ModelCheckpoint(str(here / "saved.weights.h5"), save_weights_only=True, save_freq=5)
model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[WithinAnEpoch(), checkpoint])
found["after"] = model.get_weights()[0]
found["slot"] = model.optimizer.variables[2].numpy()
if me == 0:
    model.load_weights(here / "saved.weights.h5")
    found["saved"] = model.get_weights()[0]
tfdist.broadcast_weights(model)

# Each worker has rows of its own, and worker 1 one batch less.
own = build()
rows = slice(0, 16) if me == 0 else slice(16, 28)
options = tf.data.Options()
options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
dataset = tf.data.Dataset.from_tensor_slices((x[rows], y[rows])).batch(4).with_options(options)
own.fit(dataset, verbose=0)
found["own"] = own.get_weights()[0]
np.savez(here / f"found.{me}.npz", **found)
"""


def _run(folder: Path, *arguments: str) -> tuple[list[int], list[str]]:
    script = folder / "train.py"
    script.write_text(SCRIPT)
    logs = [folder / f"log.{index}.txt" for index in range(2)]
    command = [sys.executable, str(script), *arguments]
    codes = ProcessGroup(command, worker_environments(2), logs, forked=True).wait(200)
    return codes, [log.read_text(errors="replace") for log in logs]


def _oracle(weights: np.ndarray) -> LocalTraining:
    return local_training(weights, 2, 3, "adam", outer=Outer("nesterov", 0.5, 0.9))


def _loss(training: LocalTraining, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((x @ training.replicas[0].weights - y) ** 2))


def _check_what_is_read_within_an_epoch(
    expected: LocalTraining, found: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray
) -> None:
    for number, start in enumerate(range(0, 43, 8)):
        expected.step(x[start : start + 8], y[start : start + 8])
        if number in (1, 3, 4):  # an evaluation, an average by hand and a checkpoint
            expected.synchronize()
        if number == 1:
            np.testing.assert_allclose(found["evaluated"], _loss(expected, x, y), rtol=1e-5)
        if number in (3, 4):
            expected.average_slots()
            name = {3: "within", 4: "saved"}[number]
            np.testing.assert_allclose(found[name], expected.replicas[0].weights, **CLOSE)


def test_two_workers_are_the_same_in_numpy(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((43, 4)), generator.standard_normal((43, 2))
    weights = generator.standard_normal((4, 2))
    np.savez(tmp_path / "data.npz", x=x, y=y, weights=weights)
    codes, outputs = _run(tmp_path)
    assert codes == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    found = [dict(np.load(tmp_path / f"found.{index}.npz")) for index in range(2)]
    for name in ("whole", "within", "after", "slot", "own", "loss", "val_loss", "evaluated"):
        np.testing.assert_array_equal(found[0][name], found[1][name], name)

    expected, losses = _oracle(weights), []
    for _ in range(2):
        expected.epoch(x, y, 8)
        losses.append(_loss(expected, x, y))
    np.testing.assert_allclose(found[0]["whole"], expected.replicas[0].weights, **CLOSE)
    np.testing.assert_allclose(found[0]["loss"], expected.losses, rtol=1e-5)
    np.testing.assert_allclose(found[0]["val_loss"], losses, rtol=1e-5)
    expected.average_slots()
    _check_what_is_read_within_an_epoch(expected, found[0], x, y)
    expected.synchronize()
    expected.average_slots()
    np.testing.assert_allclose(found[0]["after"], expected.replicas[0].weights, **CLOSE)
    np.testing.assert_allclose(found[0]["slot"], expected.replicas[0].first, **CLOSE)
    assert "a weight is read within a round of local steps" in outputs[0] and "is read" not in outputs[1]

    own = _oracle(weights)
    for step in range(4):
        parts = [slice(4 * step, 4 * step + 4), slice(16 + 4 * step, min(20 + 4 * step, 28))]
        own.step_on([(x[part], y[part]) for part in parts])
    own.synchronize()
    np.testing.assert_allclose(found[0]["own"], own.replicas[0].weights, **CLOSE)


def test_workers_that_disagree_are_told(tmp_path: Path) -> None:
    codes, outputs = _run(tmp_path, "disagree")
    assert 0 not in codes
    for output in outputs:
        assert re.search(
            r"do not agree on local_steps and its outer options: worker 0: \[2, 'average'.*\[3,", output
        ), output[-2000:]
