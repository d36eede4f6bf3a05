"""Two workers train with and without a data service; run by `test_data_service.py` under `tfdist launch`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist

ROWS, SIZE, EPOCHS = 101, 8, 2


def load(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Each row takes some milliseconds, so that an epoch is under way when a data worker is killed."""
    x = tf.stack([tf.cast(rows % place, tf.float32) / place for place in (2.0, 3.0, 5.0, 7.0)], axis=-1)
    wait = tf.random.stateless_uniform([300, 300], [1, 2])
    for _ in range(20):
        wait = tf.linalg.l2_normalize(tf.linalg.matmul(wait, wait))
    return x, tf.reduce_sum(x, axis=-1, keepdims=True) + 0.0 * wait[0, 0]


def data() -> tf.data.Dataset:
    return tfdist.data.rows_dataset(
        lambda rows: load(tf.cast(rows, tf.float32)),
        ROWS,
        global_batch_size=SIZE,
        shuffle=True,
        seed=1,
        in_graph=True,
    )


def kill_a_data_worker() -> None:
    port = os.environ["TFDIST_DATA_WORKERS"].rpartition(":")[2]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "--dispatcher" in words and port in words:
            os.kill(int(path.parent.name), signal.SIGKILL)


class Killer(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == 3 and json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
            kill_a_data_worker()


def train(training: tf.data.Dataset, validation: tf.data.Dataset, *callbacks: Any) -> list[np.ndarray]:
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
        model.compile("adam", "mse")
    found = model.fit(training, epochs=EPOCHS, validation_data=validation, callbacks=[*callbacks], verbose=0)
    values = [np.array(found.history[name]) for name in ("loss", "val_loss")]
    return [*model.get_weights(), *values, model.predict(validation, verbose=0)]


strategy = tfdist.create_strategy("multi_worker_mirrored", devices_per_worker=1, timeout_s=120)
alone = train(data(), data())
served = train(tfdist.data.distribute(data()), tfdist.data.distribute(data()))
killed = train(tfdist.data.distribute(data()), data(), Killer())
worker = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
np.savez(
    Path(sys.argv[1]) / f"worker_{worker}.npz",
    **{
        f"{name} {index}": value
        for name, values in {"alone": alone, "served": served, "killed": killed}.items()
        for index, value in enumerate(values)
    },
)
