"""Gradients in a narrow dtype and compressed over two workers: each option in one pair of processes, backed up too."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCRIPT = """
import sys
import numpy as np
import tfdist
from tfdist.callbacks import BackupAndRestore, TensorBoard

OPTIONS = [
    {},
    {"gradient_compression": "powersgd"},
    {"gradient_compression": "topk", "compression_share": 0.05},
    {"gradient_compression": "sign"},
    {"communication_dtype": "bfloat16"},
]
numbers = np.random.default_rng(0)
x = numbers.standard_normal((256, 32)).astype("float32")
y = (x @ numbers.standard_normal((32, 4))).argmax(1)
for options in OPTIONS:
    strategy = tfdist.create_strategy("multi_worker_mirrored", **options)
    import keras

    def fitted(epochs, *callbacks):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            units = [keras.layers.Dense(64, "relu"), keras.layers.Dense(64, "relu"), keras.layers.Dense(4)]
            model = keras.Sequential([keras.Input((32,)), *units])
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile(keras.optimizers.Adam(5e-3), loss)
        model.fit(x, y, batch_size=32, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))
        return model

    model = fitted(5, TensorBoard(sys.argv[1] + "/logs"))
    right = (model.predict(x, verbose=0).argmax(1) == y).mean()
    traffic = getattr(strategy.communication, "traffic", None)
    print(f"accuracy {right:.3f} of {options}", traffic and round(traffic.exact / traffic.sent, 1))
    if options.get("gradient_compression") == "sign":
        fitted(2, BackupAndRestore(sys.argv[1] + "/backup", delete_checkpoint=False))
        again = fitted(5, BackupAndRestore(sys.argv[1] + "/backup"))
        pairs = zip(model.get_weights(), again.get_weights())
        print("restored", all(np.array_equal(one, other) for one, other in pairs))
"""


@pytest.mark.processes
@pytest.mark.busy(2)
def test_two_workers_learn_nearly_as_without_it_and_go_on_bit_for_bit(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "tfdist", "launch", "--num-workers", "2", str(script), str(tmp_path)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=280, check=False)
    # `fit` itself compares the weights of the workers after each epoch, and refuses to go on if they differ.
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split("] ")[-1] for line in done.stdout.splitlines()]
    accuracies = [float(line.split()[1]) for line in lines if line.startswith("accuracy")]
    assert len(accuracies) == 2 * 5
    assert min(accuracies) > accuracies[0] - 0.05 > 0.9
    assert lines.count("restored True") == 2
    events = EventAccumulator(str(tmp_path / "logs" / "train"), size_guidance={"tensors": 0})
    events.Reload()
    shown = {
        tag.removeprefix("communication/"): [
            tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
        if tag.startswith("communication/")
    }
    assert set(shown) == {"bytes_per_step", "compression_ratio", "relative_error"}
    assert min(shown["compression_ratio"]) == pytest.approx(2.0, rel=1e-3)  # that of bfloat16
    assert all(0 < error < 1 for error in shown["relative_error"])
