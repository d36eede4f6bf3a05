"""Embeddings, whose gradients are slices, under optimizers that divide them; and tensors that are no variables."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case

layers = keras.layers

OPTIMIZERS = {
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
}


@case("optimizers", on=("mirrored_2",))
def embedding_optimizers(context: Context) -> dict[str, Any]:
    """An embedding, with ids that repeat, under each optimizer that divides its slices; uneven batches."""
    ids = np.random.default_rng(0).integers(0, 8, (17, 3)).astype("int32")

    def build() -> keras.Model:
        return tiny.fix_weights(
            keras.Sequential(
                [keras.Input((3,), dtype="int32"), layers.Embedding(8, 4), layers.Flatten(), layers.Dense(3)]
            )
        )

    found: dict[str, Any] = {}
    for name, optimizer in OPTIMIZERS.items():
        model = tiny.compiled(context, build, optimizer)
        model.fit(ids, tiny.rows(17)[1], batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
        found |= tiny.weights(model, f"weights/{name}")
    return found


class _Basis(keras.layers.Layer):
    """Has a tensor that is made in `__init__` and a layer without weights of its own to train."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = tf.constant(np.random.default_rng(0).standard_normal((4, 40)), "float32")

    def call(self, inputs: Any) -> Any:
        return keras.ops.tanh(keras.ops.matmul(inputs, self.basis))


@case("inputs", on=("mirrored_2",))
def tensors_of_a_layer(context: Context) -> dict[str, Any]:
    """Adapted normalization, a tensor made in `__init__`, another in a loss, an embedding of constant ids; SGD."""
    features, labels = tiny.rows(17)
    scale = tf.constant(np.linspace(0.5, 1.5, tiny.CLASSES), "float32")

    def build() -> keras.Model:
        normalization = layers.Normalization()
        normalization.adapt(features * 2 + 1)
        inputs = keras.Input((tiny.FEATURES,))
        places = layers.Embedding(40, 1)(keras.ops.arange(40))
        hidden = _Basis()(normalization(inputs)) + keras.ops.reshape(places, (40,))
        return tiny.fix_weights(keras.Model(inputs, layers.Dense(tiny.CLASSES)(hidden)))

    def loss(labels: Any, logits: Any) -> Any:
        return keras.losses.sparse_categorical_crossentropy(labels, logits * scale, from_logits=True)

    model = tiny.compiled(context, build, loss=lambda: loss)
    history = model.fit(features, labels, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    return tiny.outcome(context, model, history)
