"""One step on a global batch is one step on one device, for every kind of model and optimizer, and for every rest."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, WIDE, case


@case("steps", on=WIDE, stock_workers=True, quick=True, stands_for_family=True)
def sequential(context: Context) -> dict[str, Any]:
    """Sequential model, SGD, even batches."""
    return tiny.fitted(context, tiny.compiled(context, metrics=["accuracy"]))


@case("steps")
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


@case("steps")
def subclassed(context: Context) -> dict[str, Any]:
    """Subclassed model that is built by the first batch."""
    return tiny.fitted(context, tiny.compiled(context, Subclassed), count=30)


def embedded() -> keras.Model:
    """An embedding of five ids and a dense layer: (batch, 5) ids to (batch, 3) logits."""
    layers = [keras.layers.Input((5,), dtype="int32"), keras.layers.Embedding(11, 4), keras.layers.Flatten()]
    return tiny.fix_weights(keras.Sequential([*layers, keras.layers.Dense(tiny.CLASSES)]))


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


@case("steps", each=["adam", "momentum"], every_item=NARROW)
def embedding(context: Context, name: str) -> dict[str, Any]:
    """Embedding with repeated ids (sparse gradients), a tail of one row."""
    model = tiny.compiled(context, embedded, OPTIMIZERS[name])
    ids = np.random.default_rng(0).integers(0, 11, (25, 5)).astype("int32")
    history = model.fit(ids, tiny.rows(25)[1], batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    return tiny.outcome(context, model, history)


@case("optimizers", each=OPTIMIZERS, on=(*NARROW, "mirrored_4"), stands_for_family=True)
def optimizer(context: Context, name: str) -> dict[str, Any]:
    """Optimizer over nine steps, a tail of one row in each epoch."""
    model = tiny.compiled(context, tiny.mlp, OPTIMIZERS[name])
    return tiny.fitted(context, model, 25, epochs=3)


@case("uneven", on=WIDE, stock_workers=True, quick=True)
def uneven_rest(context: Context) -> dict[str, Any]:
    """Every rest r of 12 + r rows, r = 1 to 11, one after the other."""
    found: dict[str, Any] = {}
    model = tiny.compiled(context, metrics=["accuracy"])
    start = model.get_weights()
    for rest in range(1, tiny.BATCH):
        model.set_weights(start)
        result = tiny.fitted(context, model, tiny.BATCH + rest, epochs=1)
        found |= {f"{key} rest {rest}": value for key, value in result.items()}
    return found


@case("uneven", on=(*NARROW, "mirrored_4"))
def fewer_rows_than_replicas(context: Context) -> dict[str, Any]:
    """A whole dataset of one row, so that the very first batch leaves replicas empty; then of two and of three."""
    model = tiny.compiled(context, metrics=["accuracy"])
    found: dict[str, Any] = {}
    for count in (1, 2, 3):
        result = tiny.fitted(context, model, count)
        found |= {f"{key} of {count}": value for key, value in result.items()}
    return found


@case("uneven", stands_for_family=True)
def odd_batch(context: Context) -> dict[str, Any]:
    """A global batch of 7 that no number of replicas divides."""
    return tiny.fitted(context, tiny.compiled(context, tiny.mlp), 30, batch_size=7)
