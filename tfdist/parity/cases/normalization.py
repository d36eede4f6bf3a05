"""O10 to O13: values equal on all replicas, batch statistics, random numbers by replica and by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, WIDE, case

BatchNormalization = keras.layers.BatchNormalization


class ReplicaSpread(keras.callbacks.Callback):
    """Records after each epoch how far the replicas are from each other."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        self.spreads: list[float] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.spreads.append(tiny.replica_spread(self.context, self.model))


@case("O10", layouts=WIDE, quick=True)
def replicas_each_epoch(context: Context) -> dict[str, Any]:
    """Weights, slots, batch statistics and seeds on all replicas and workers after every epoch."""
    model = tiny.compiled(
        context,
        lambda: tiny.mlp(BatchNormalization, lambda: keras.layers.Dropout(0.5, seed=3)),
        lambda: keras.optimizers.Adam(0.05),
    )
    spread = ReplicaSpread(context)
    result = tiny.fitted(context, model, 31, epochs=3, callbacks=[spread])
    # Other replica counts draw other masks: the values may differ from one device, but not between workers.
    found = {f"agree/{key}": value for key, value in result.items()}
    return found | {"zero/each epoch": np.asarray(spread.spreads)}


@case("O11", each=["24", "25", "31"], meshes=True)
def synchronized(context: Context, count: str) -> dict[str, Any]:
    """Synchronized batch normalization over even batches, a tail of one row, and a tail of seven."""
    model = tiny.compiled(
        context, lambda: tiny.mlp(lambda: BatchNormalization(momentum=0.5, synchronized=True))
    )
    return tiny.fitted(context, model, int(count))


@case("O11", each=["24", "25", "31"])
def unsynchronized(context: Context, count: str) -> dict[str, Any]:
    """Batch statistics of each replica: finite, the same everywhere afterwards, one answer for one row."""
    model = tiny.compiled(context, lambda: tiny.mlp(lambda: BatchNormalization(momentum=0.5)))
    result = tiny.fitted(context, model, int(count))
    features, _ = tiny.rows(tiny.BATCH)
    forward = model.predict(features, batch_size=tiny.BATCH, verbose=0)
    backward = model.predict(features[::-1], batch_size=tiny.BATCH, verbose=0)[::-1]
    return {
        "true/finite": all(np.isfinite(weight).all() for weight in model.get_weights()),
        "true/one answer for one row": np.allclose(forward, backward, rtol=0, atol=1e-6),
        "zero/replicas": result["zero/replicas"],
        "agree/predictions": forward,
        "exact/count": len(forward),
    }


class Recorder(keras.layers.Layer):
    """Hands every input that it sees while training to `record`."""

    def __init__(self, record: Callable[[np.ndarray], None]) -> None:
        super().__init__()
        self.record = record

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            tf.py_function(lambda value: self.record(value.numpy()), [inputs], [])
        return inputs


RANDOM_LAYERS = {
    "dropout": lambda: keras.layers.Dropout(0.5, seed=3),
    "noise": lambda: keras.layers.GaussianNoise(1.0, seed=3),
}


@case("O12", each=RANDOM_LAYERS, layouts=WIDE)
def random_masks(context: Context, name: str) -> dict[str, Any]:
    """Replicas draw different numbers, every step draws new ones, and the seed advances once a step."""
    seen: list[np.ndarray] = []

    def build() -> keras.Model:
        layers = [keras.layers.Input((16,)), RANDOM_LAYERS[name](), Recorder(seen.append)]
        return tiny.fix_weights(keras.Sequential([*layers, keras.layers.Dense(tiny.CLASSES)]))

    model = tiny.compiled(context, build)
    inputs, labels = np.ones((2 * tiny.BATCH, 16), "float32"), np.zeros(2 * tiny.BATCH, "int64")
    model.fit(inputs, labels, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    # One draw is what one replica drew for its first row in one step: 4 steps on each replica.
    draws = np.concatenate(context.gather("draws", np.stack([value[0] for value in seen])))
    return {
        "true/all draws differ": len(np.unique(draws, axis=0)) == len(draws) == 4 * context.num_replicas,
        "exact/seed": np.asarray(model.layers[0].seed_generator.state),
        "zero/replicas": tiny.replica_spread(context, model),
    }


@case("O12", quick=True)
def same_seed_same_run(context: Context) -> dict[str, Any]:
    """Two runs with the same seed give the same weights bit for bit, shuffling and dropout included."""
    runs = []
    for _ in range(2):
        keras.utils.set_random_seed(11)
        model = tiny.compiled(context, lambda: tiny.mlp(lambda: keras.layers.Dropout(0.5)))
        tiny.fitted(context, model, 31, shuffle=True)
        runs.append(np.concatenate([np.ravel(weight) for weight in model.get_weights()]))
    return {"zero/second run": runs[1] - runs[0], "agree/weights": runs[0]}


def _augmentation() -> keras.layers.Layer:
    return keras.Sequential(
        [keras.layers.Reshape((2, 2, 1)), keras.layers.RandomFlip(seed=3), keras.layers.Reshape((4,))]
    )


class Sampling(keras.layers.Layer):
    """The noise of a variational autoencoder, and one draw that all rows share; both unseeded."""

    def call(self, inputs: Any) -> Any:
        shared = keras.random.uniform((4,))
        return inputs + 0.3 * keras.random.normal(keras.ops.shape(inputs)) * shared


LAYERS_BY_ROW = {
    "dropout": lambda: keras.layers.Dropout(0.5),
    "noise shape": lambda: keras.layers.Dropout(0.5, noise_shape=(None, 1)),
    "noise": lambda: keras.layers.GaussianNoise(1.0),
    "augmentation": _augmentation,
    "unseeded": Sampling,
}


@case("O13", each=LAYERS_BY_ROW, layouts=WIDE, every_item=NARROW, meshes=True)
def random_by_row(context: Context, name: str) -> dict[str, Any]:
    """With `random_by_row`, random layers train as on one device; a tail of one row and one of seven."""
    keras.utils.set_random_seed(5)
    with context.random_by_row():
        # With a rate of 0.5, half a unit in the last place of the first weights grows to 4e-6 on one device already.
        model = tiny.compiled(
            context, lambda: tiny.mlp(LAYERS_BY_ROW[name]), lambda: keras.optimizers.SGD(0.1)
        )
        return tiny.fitted(context, model, 25, epochs=2) | {
            f"{key} 31": value for key, value in tiny.fitted(context, model, 31).items()
        }
