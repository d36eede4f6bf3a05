"""What two workers do not have alike is told before it counts: settings, weights, data, rows; and broadcast_weights.

All situations are in one script for each strategy. An error of this kind is raised in every worker, which goes on to
the next.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tfdist.parity.processes import ProcessGroup, worker_environments

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.busy(2), pytest.mark.timeout(240)]

SCRIPT = """
import pathlib, sys

import keras
import numpy as np
import tfdist
import tensorflow as tf

kind = sys.argv[1]
options = {"mesh": {"batch": 2}, "shard_weights": True} if kind == "mesh" else {}
strategy = tfdist.create_strategy(kind, timeout_s=60, **options)
from tfdist.process import process_index

me, here = process_index(), pathlib.Path(__file__).parent
generator = np.random.default_rng(0)
x, y = generator.standard_normal((24, 4)).astype("float32"), generator.standard_normal((24, 1)).astype("float32")


def build(optimizer="sgd"):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2, name="first"), keras.layers.Dense(1)])
        model.compile(optimizer() if callable(optimizer) else optimizer, "mse")
    return model


def told(name, model, *data, **options):
    try:
        model.fit(*data, verbose=0, **options)
    except tfdist.errors.TfdistError as error:
        print(f"[{name}] {type(error).__name__}: {error}", flush=True)
    else:
        print(f"[{name}] no error", flush=True)


def batches(rows_of=lambda step: 8, labels_of=lambda step: 8):
    def make():
        for step in range(4):
            yield x[: rows_of(step)], y[: labels_of(step)]

    spec = tf.TensorSpec([None, 4]), tf.TensorSpec([None, 1])
    return tf.data.Dataset.from_generator(make, output_signature=spec)


told("optimizer", build("adam" if me else "sgd"), x, y)
version, np.__version__ = np.__version__, "1.0" if me else "2.0"
told("version", build(), x, y)
np.__version__ = version
told("momentum", build(lambda: keras.optimizers.SGD(0.1, momentum=0.5 * me)), x, y)
told("validation", build(), x, y, validation_data=(x, y) if me else None)
told("callbacks", build(), x, y, callbacks=[keras.callbacks.EarlyStopping()] if me else [])
told("class weights", build(), x, y, class_weight={0: 1.0 + me})
model = build()
if me == 0:
    model.get_layer("first").kernel.assign(np.ones((4, 2)))
told("weights", model, x, y)
if kind != "mesh":
    tfdist.broadcast_weights(model)
    print("broadcast", model.get_layer("first").kernel.numpy().tolist(), flush=True)
    told("broadcast", model, x, y)


class Drift(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if me == 1 and epoch == 1:
            self.model.get_layer("first").bias.assign([0.5, 0.5])


told("drift", build(), x, y, epochs=3, callbacks=[Drift()])
told("data", build(), x + me, y, batch_size=8)
order = np.random.default_rng().permutation(24)
told("order", build(), tf.data.Dataset.from_tensor_slices((x[order], y[order])).batch(8))
told("part", build(), batches(labels_of=lambda step: 8 if step < 3 else 7))
if kind == "mesh":
    callback = keras.callbacks.TensorBoard(str(here / "logs"), histogram_freq=1)
    told("histograms", build(), x, y, callbacks=[callback])
else:
    told("rows", build(), batches(*[lambda step: 6 if step == 3 and me else 8] * 2))
"""

TOLD = {
    "optimizer": r"the optimizer, class_name: worker 0: 'SGD'; worker 1: 'Adam'",
    "version": r"the versions of packages, numpy: worker 0: '2.0'; worker 1: '1.0'.* same packages",
    "momentum": r"the optimizer, config, momentum: worker 0: 0.0; worker 1: 0.5",
    "validation": r"arguments of fit, validation_data: worker 0: False; worker 1: True",
    "callbacks": r"the callbacks: worker 0: \[\]; worker 1: \['EarlyStopping'\]",
    "class weights": r"class_weight, 0: worker 0: 1.0; worker 1: 2.0",
    "weights": r"different weights at the start of fit: 'sequential\S*/first/kernel' ",
    "drift": r"different weights after epoch 2: 'sequential\S*/first/bias' ",
    "data": r"'x' of (the rows|the first batch) is not the same. worker 0: float32 \((24|8), 4\), mean .*; worker 1: ",
    "order": r"'x' of the first batch is not the same",
    "part": r"'y' has 7 rows in a batch in which 'x' has 8",
}


@pytest.mark.parametrize("strategy", ["multi_worker_mirrored", pytest.param("mesh", marks=pytest.mark.wide)])
def test_what_differs_is_named(tmp_path: Path, strategy: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    logs = [tmp_path / f"log.{index}.txt" for index in range(2)]
    group = ProcessGroup([sys.executable, str(script), strategy], worker_environments(2), logs, forked=True)
    codes = group.wait(200)
    outputs = [log.read_text(errors="replace") for log in logs]
    assert codes == [0, 0], outputs[0][-3000:] + outputs[1][-3000:]
    for output in outputs:
        lines = dict(re.findall(r"^\[([\w ]+)\] (.*)$", output, re.MULTILINE))
        for name, expected in TOLD.items():
            assert re.search(expected, lines[name]), (name, lines[name])
        if strategy == "mesh":
            assert lines["histograms"] == "no error"
        else:
            assert "broadcast [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]" in output
            assert lines["broadcast"] == "no error"
            assert re.search("rows in this step: worker 0: 8; worker 1: 6", lines["rows"]), lines["rows"]
            assert "'sequential" in lines["weights"] and "differs by up to" in lines["weights"]
