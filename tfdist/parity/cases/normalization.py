"""Values equal on all replicas, batch statistics, random numbers by replica and by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NO_MESH, WIDE, case

BatchNormalization = keras.layers.BatchNormalization


class ReplicaSpread(keras.callbacks.Callback):
    """Records after each epoch how far the replicas are from each other."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        self.spreads: list[float] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.spreads.append(tiny.replica_spread(self.context, self.model))


@case("normalization", on=WIDE, quick=True)
def replicas_each_epoch(context: Context) -> dict[str, Any]:
    """Weights, slots, batch statistics and seeds on all replicas and workers after every epoch."""
    model = tiny.compiled(
        context,
        lambda: tiny.mlp(BatchNormalization, lambda: keras.layers.Dropout(0.5, seed=3)),
        lambda: keras.optimizers.Adam(0.05),
    )
    spread = ReplicaSpread(context)
    result = tiny.fitted(context, model, 31, epochs=3, callbacks=[spread])
    # With another number of replicas the masks are others. So values may differ from one device, but not between
    # workers.
    found = {f"agree/{key}": value for key, value in result.items()}
    return found | {"zero/each epoch": np.asarray(spread.spreads)}


@case("normalization", stands_for_family=True)
def synchronized(context: Context) -> dict[str, Any]:
    """Synchronized batch normalization over even batches, then a tail of one row, then a tail of seven."""
    model = tiny.compiled(
        context, lambda: tiny.mlp(lambda: BatchNormalization(momentum=0.5, synchronized=True))
    )
    found: dict[str, Any] = {}
    for count in (24, 25, 31):
        result = tiny.fitted(context, model, count)
        found |= {f"{key} of {count}": value for key, value in result.items()}
    return found


@case("normalization")
def unsynchronized(context: Context) -> dict[str, Any]:
    """Batch statistics of each replica: finite, the same everywhere afterwards, one answer for one row."""
    model = tiny.compiled(context, lambda: tiny.mlp(lambda: BatchNormalization(momentum=0.5)))
    features, _ = tiny.rows(tiny.BATCH)
    found: dict[str, Any] = {}
    for count in (24, 25, 31):
        result = tiny.fitted(context, model, count)
        forward = model.predict(features, batch_size=tiny.BATCH, verbose=0)
        backward = model.predict(features[::-1], batch_size=tiny.BATCH, verbose=0)[::-1]
        found |= {
            f"true/finite {count}": all(np.isfinite(weight).all() for weight in model.get_weights()),
            f"true/one answer for one row {count}": np.allclose(forward, backward, rtol=0, atol=1e-6),
            f"zero/replicas {count}": result["zero/replicas"],
            f"agree/predictions {count}": forward,
            f"exact/count {count}": len(forward),
        }
    return found


class Recorder(keras.layers.Layer):
    """Gives every input that it sees in training to `record`."""

    def __init__(self, record: Callable[[np.ndarray], None]) -> None:
        super().__init__()
        self.record = record

    def call(self, inputs: Any, training: bool = False) -> Any:
        if training:
            tf.py_function(lambda value: self.record(value.numpy()), [inputs], [])
        return inputs


RANDOM_LAYERS = {
    "dropout": lambda name: keras.layers.Dropout(0.5, seed=3, name=name),
    "noise": lambda name: keras.layers.GaussianNoise(1.0, seed=3, name=name),
}


@case("randomness", on=WIDE, refused_by=NO_MESH)
def random_masks(context: Context) -> dict[str, Any]:
    """Replicas draw different numbers, every step draws new ones, and the seed advances once a step."""
    seen: dict[str, list[np.ndarray]] = {name: [] for name in RANDOM_LAYERS}

    def build() -> keras.Model:
        inputs = keras.Input((16,))
        drawn = {name: layer(name=name)(inputs) for name, layer in RANDOM_LAYERS.items()}
        recorded = [Recorder(seen[name].append)(value) for name, value in drawn.items()]
        outputs = keras.layers.Dense(tiny.CLASSES)(keras.layers.Concatenate()(recorded))
        return tiny.fix_weights(keras.Model(inputs, outputs))

    model = tiny.compiled(context, build)
    inputs, labels = np.ones((2 * tiny.BATCH, 16), "float32"), np.zeros(2 * tiny.BATCH, "int64")
    model.fit(inputs, labels, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    found: dict[str, Any] = {"zero/replicas": tiny.replica_spread(context, model)}
    for name, values in seen.items():
        # A draw is what one replica has drawn for its first row in one step. Each replica has 4 steps.
        draws = np.concatenate(context.gather(name, np.stack([value[0] for value in values])))
        different = len(np.unique(draws, axis=0)) == len(draws) == 4 * context.num_replicas
        found[f"true/all draws of {name} differ"] = different
        found[f"exact/seed of {name}"] = np.asarray(model.get_layer(name).seed_generator.state)
    return found


@case("randomness", quick=True)
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
    "noise_shape": lambda: keras.layers.Dropout(0.5, noise_shape=(None, 1)),
    "noise": lambda: keras.layers.GaussianNoise(1.0),
    "augmentation": _augmentation,
    "unseeded": Sampling,
}


@case("randomness", on=WIDE)
def random_by_row(context: Context) -> dict[str, Any]:
    """With `random_by_row`, random layers in branches train as on one device; a tail of one row and one of seven."""

    def branch(name: str) -> keras.Model:
        model = tiny.mlp(LAYERS_BY_ROW[name])
        model.name = name
        return model

    def build() -> keras.Model:
        features = keras.Input((tiny.FEATURES,))
        return keras.Model(features, {name: branch(name)(features) for name in LAYERS_BY_ROW})

    keras.utils.set_random_seed(5)
    found: dict[str, Any] = {}
    with context.random_by_row():
        # With a rate of 0.5, half a unit in the last place of the first weights would grow to 4e-6 on one device, too.
        model = tiny.compiled(
            context,
            build,
            lambda: keras.optimizers.SGD(0.1),
            loss=lambda: {name: tiny.crossentropy() for name in LAYERS_BY_ROW},
        )
        for count in (25, 31):
            features, labels = tiny.rows(count)
            history = model.fit(
                features,
                dict.fromkeys(LAYERS_BY_ROW, labels),
                batch_size=tiny.BATCH,
                epochs=2,
                shuffle=False,
                verbose=0,
            )
            result = tiny.outcome(context, model, history)
            found |= {f"{key} of {count}": value for key, value in result.items()}
    return found


class Noise(keras.layers.Layer):
    """Adds numbers from Keras's global, unseeded generator."""

    def call(self, inputs: Any, training: bool = False) -> Any:
        return inputs + 0.1 * keras.random.normal(keras.ops.shape(inputs)) if training else inputs


@case("randomness", quick=True, stands_for_family=True)
def unseeded_random(context: Context) -> dict[str, Any]:
    """A layer that draws from `keras.random` without a seed."""
    model = tiny.compiled(context, lambda: tiny.mlp(Noise))
    found = tiny.fitted(context, model, 31)
    weights = [value for name, value in found.items() if name.startswith("weights/")]
    return {
        "true/finite": all(np.isfinite(weight).all() for weight in weights),
        "exact/iterations": found["exact/iterations"],
        "zero/replicas": found["zero/replicas"],
        "agree/weights": np.concatenate([np.ravel(weight) for weight in weights]),
    }
