"""Tables that are looked up with ids that all replicas have, or that come up several times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist._internals.step.repeated_rows import set_repeated_rows
from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case
from tfdist.parity.topologies import PLAIN

LENGTH, NUM_TOKENS, UNITS = 6, 11, 4

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "rmsprop": lambda: keras.optimizers.RMSprop(0.02),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "clipnorm": lambda: keras.optimizers.SGD(1.0, clipnorm=0.1),
    "global_clipnorm": lambda: keras.optimizers.SGD(1.0, global_clipnorm=0.1),
    "adam": lambda: keras.optimizers.Adam(0.02),
}


class Tables(keras.layers.Layer):
    """Adds look-ups of every kind: ids of the batch, positions, repeated constants, unique ids; and all in one."""

    def build(self, shape: Any) -> None:
        self.tables = {}
        for seed, name in enumerate(("tokens", "positions", "counted", "repeated", "unique", "shared")):
            initializer = keras.initializers.RandomNormal(seed=seed)
            self.tables[name] = keras.layers.Embedding(NUM_TOKENS, UNITS, initializer, name=name)
            self.tables[name].build(None)

    def call(self, tokens: Any) -> Any:
        length = keras.ops.shape(tokens)[1]
        ids, places = tf.unique(tf.reshape(tokens, [-1]))
        unique = tf.reshape(tf.gather(self.tables["unique"](ids), places), [-1, length, UNITS])
        return (
            self.tables["tokens"](tokens)
            + self.tables["positions"](keras.ops.arange(LENGTH))
            + self.tables["counted"](tf.range(2, tf.shape(tokens)[1] + 2))
            + self.tables["repeated"](tf.constant([0, 1, 1, 2, 2, 2]))
            + unique
            + self.tables["shared"](tokens)
            + self.tables["shared"](keras.ops.arange(LENGTH))
            + self.tables["shared"](keras.ops.arange(LENGTH - 1, -1, -1))
        )


def _fitted(context: Context, layer: Callable[[], keras.layers.Layer], optimizer: Any) -> dict[str, Any]:
    def build() -> keras.Model:
        model = keras.Sequential(
            [keras.layers.Input((LENGTH,), dtype="int32"), layer(), keras.layers.Flatten()]
        )
        model.add(
            keras.layers.Dense(tiny.CLASSES, kernel_initializer=keras.initializers.GlorotNormal(seed=9))
        )
        return model

    generator = np.random.default_rng(3)
    # Each token comes up several times in a batch, and a row has some of them twice.
    tokens = generator.integers(0, NUM_TOKENS, (2 * tiny.BATCH + 1, LENGTH)).astype("int32")
    labels = generator.integers(0, tiny.CLASSES, len(tokens))
    model = tiny.compiled(context, build, optimizer)
    history = model.fit(tokens, labels, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    return tiny.outcome(context, model, history)


@case("slices", each=OPTIMIZERS, refused_by=("mesh",), stands_for_family=True)
def looked_up_on_all_replicas(context: Context, name: str) -> dict[str, Any]:
    """Positions, repeated constants and unique ids, alone and beside ids of the batch in one table; uneven batches."""
    return _fitted(context, Tables, OPTIMIZERS[name])


class Table(keras.layers.Layer):
    """A table of which plain Keras has the dense gradient, because it is not looked up in the variable itself."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight((NUM_TOKENS, UNITS), keras.initializers.RandomNormal(seed=0))

    def call(self, tokens: Any) -> Any:
        return keras.ops.take(self.table * 1.0, tokens, axis=0)


@case("slices", quick=True, stands_for_family=True)
def summed_rows(context: Context) -> dict[str, Any]:
    """`repeated_rows="sum"`: Adam, and clipping by norm, take tokens that come up several times as a dense gradient."""

    def embedding() -> keras.layers.Layer:
        return keras.layers.Embedding(NUM_TOKENS, UNITS, keras.initializers.RandomNormal(seed=0))

    layer = Table if context.topology.strategy == PLAIN else embedding
    strategy = context.strategy or tf.distribute.get_strategy()
    set_repeated_rows(strategy, "sum")
    found: dict[str, Any] = {}
    try:
        for name in ("adam", "clipnorm"):
            fitted = _fitted(context, layer, OPTIMIZERS[name])
            # The variables have other names in plain Keras.
            values = [value for key, value in fitted.items() if key.startswith(("weights/", "slots/"))]
            found |= {f"weights/{name} {index}": value for index, value in enumerate(values)}
            found |= {f"{key} of {name}": fitted[key] for key in ("history/loss", "zero/replicas")}
    finally:
        set_repeated_rows(strategy, "keep")
    return found
