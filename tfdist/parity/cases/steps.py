"""O1: one step on a global batch is one step on one device, for every kind of model and optimizer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, WIDE, case


@case("O1", layouts=WIDE, stock_workers=True, quick=True, meshes=True)
def sequential(context: Context) -> dict[str, Any]:
    """Sequential model, SGD, even batches."""
    return tiny.fitted(context, tiny.compiled(context, metrics=["accuracy"]))


@case("O1", meshes=True)
def functional(context: Context) -> dict[str, Any]:
    """Functional model with two named inputs, two outputs and loss weights."""

    def build() -> keras.Model:
        left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
        joined = keras.layers.concatenate([left, right])
        outputs = {
            "a": keras.layers.Dense(tiny.CLASSES, name="a")(joined),
            "b": keras.layers.Dense(1, name="b")(joined),
        }
        return tiny.fix_weights(keras.Model({"left": left, "right": right}, outputs))

    model = tiny.compiled(
        context, build, loss=lambda: {"a": tiny.crossentropy(), "b": "mse"}, loss_weights={"a": 1.0, "b": 0.1}
    )
    features, labels = tiny.rows(30)
    history = model.fit(
        {"left": features[:, :2], "right": features[:, 2:]},
        {"a": labels, "b": features[:, :1]},
        batch_size=tiny.BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
    )
    return tiny.outcome(context, model, history)


class Subclassed(keras.Model):
    """A model whose variables appear on the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.first = keras.layers.Dense(
            4, activation="tanh", kernel_initializer=keras.initializers.GlorotUniform(3)
        )
        self.second = keras.layers.Dense(tiny.CLASSES, kernel_initializer=keras.initializers.GlorotUniform(4))

    def call(self, inputs: Any) -> Any:
        return self.second(self.first(inputs))


@case("O1", meshes=True)
def subclassed(context: Context) -> dict[str, Any]:
    """Subclassed model that is built by the first batch."""
    return tiny.fitted(context, tiny.compiled(context, Subclassed), count=30)


def embedded() -> keras.Model:
    """An embedding of five ids and a dense layer: (batch, 5) ids to (batch, 3) logits."""
    layers = [keras.layers.Input((5,), dtype="int32"), keras.layers.Embedding(11, 4), keras.layers.Flatten()]
    return tiny.fix_weights(keras.Sequential([*layers, keras.layers.Dense(tiny.CLASSES)]))


@case("O1", meshes=True)
def embedding(context: Context) -> dict[str, Any]:
    """Embedding with repeated ids (sparse gradients), Adam."""
    model = tiny.compiled(context, embedded, lambda: keras.optimizers.Adam(0.05))
    ids = np.random.default_rng(0).integers(0, 11, (24, 5)).astype("int32")
    history = model.fit(ids, tiny.rows(24)[1], batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    return tiny.outcome(context, model, history)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.5),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.05),
    "adamw": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.05),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adafactor": lambda: keras.optimizers.Adafactor(0.05),
    "lamb": lambda: keras.optimizers.Lamb(0.05),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "muon": lambda: keras.optimizers.Muon(0.01),
}


@case("O1", each=OPTIMIZERS, layouts=(*NARROW, "mirrored_4"), meshes=True)
def optimizer(context: Context, name: str) -> dict[str, Any]:
    """Optimizer over eight steps."""
    model = tiny.compiled(context, tiny.mlp, OPTIMIZERS[name])
    return tiny.fitted(context, model, count=48)
