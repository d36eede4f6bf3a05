"""One model of each kind: convolutional, recurrent, with several inputs, and a variational autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, case

layers = keras.layers


def _values(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype("float32")


def _convolutional() -> keras.Model:
    """A stem, a residual block, an inverted bottleneck as in MobileNet, and pooling."""
    images = keras.Input((8, 8, 3))
    stem = layers.ReLU()(
        layers.BatchNormalization(synchronized=True)(layers.Conv2D(4, 3, padding="same")(images))
    )
    block = layers.Conv2D(4, 3, padding="same", use_bias=False)(stem)
    joined = layers.Add()([stem, layers.BatchNormalization(synchronized=True)(block)])
    wide = layers.Conv2D(8, 1, activation="relu6")(joined)
    deep = layers.DepthwiseConv2D(3, strides=2, padding="same", activation="relu6")(wide)
    pooled = layers.AveragePooling2D(2)(layers.Conv2D(6, 1)(deep))
    return keras.Model(images, layers.Dense(tiny.CLASSES)(layers.Flatten()(pooled)))


def _several_inputs() -> keras.Model:
    """An image, numbers that are normalized, and ids that pass a recurrent layer."""
    image, numbers = keras.Input((6, 6, 2), name="image"), keras.Input((5,), name="numbers")
    ids = keras.Input((3,), dtype="int32", name="ids")
    normalized = layers.Normalization(mean=np.linspace(0, 1, 5), variance=np.full(5, 0.1))(numbers)
    states = layers.GRU(4)(layers.Embedding(9, 4)(ids))
    parts = [layers.Flatten()(layers.Conv2D(2, 3)(image)), layers.Dense(4, "tanh")(normalized), states]
    hidden = layers.Dense(6, "tanh")(layers.Concatenate()(parts))
    return keras.Model({"image": image, "numbers": numbers, "ids": ids}, layers.Dense(tiny.CLASSES)(hidden))


def _rows(name: str, count: int) -> Any:
    if name == "convolutional":
        return _values(count, 8, 8, 3)
    ids = np.random.default_rng(1).integers(0, 9, (count, 3)).astype("int32")
    return {"image": _values(count, 6, 6, 2), "numbers": _values(count, 5), "ids": ids}


MODELS: dict[str, Callable[[], keras.Model]] = {
    "convolutional": _convolutional,
    "several inputs": _several_inputs,
}


@case("models", each=MODELS, on=NARROW, every_item=("mirrored_2", "mesh_2x2"), stands_for_family=True)
def model(context: Context, name: str) -> dict[str, Any]:
    """A model of its kind, momentum, uneven batches, predictions."""
    build = lambda: tiny.fix_weights(MODELS[name](), deviation=0.3)  # noqa: E731
    trained = tiny.compiled(context, build, lambda: keras.optimizers.SGD(0.1, momentum=0.9))
    rows, labels = _rows(name, 17), tiny.rows(17)[1]
    history = trained.fit(rows, labels, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0)
    predicted = trained.predict(rows, batch_size=tiny.BATCH, verbose=0)
    return tiny.outcome(context, trained, history) | {"predict/all": predicted}


class Autoencoder(keras.Model):
    """The variational autoencoder of the Keras guide, with noise that is given, so that one device has the same."""

    def __init__(self) -> None:
        super().__init__()
        images, noise = keras.Input((4, 4, 1)), keras.Input((2,))
        hidden = layers.Flatten()(layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(images))
        mean, log_variance = layers.Dense(2)(hidden), layers.Dense(2)(hidden)
        code = mean + ops.exp(0.5 * log_variance) * noise
        self.encoder = keras.Model([images, noise], [mean, log_variance, code])
        codes = keras.Input((2,))
        spread = layers.Reshape((2, 2, 4))(layers.Dense(16, activation="relu")(codes))
        drawn = layers.Conv2DTranspose(1, 3, strides=2, padding="same", activation="sigmoid")(spread)
        self.decoder = keras.Model(codes, drawn)

    def call(self, inputs: Any) -> Any:
        return self.decoder(self.encoder(inputs)[2])

    def compute_loss(self, x: Any = None, *unused: Any, **options: Any) -> Any:
        mean, log_variance, code = self.encoder(x)
        drawn = self.decoder(code)
        missed = ops.sum(keras.losses.binary_crossentropy(x[0], drawn), axis=(1, 2))
        divergence = -0.5 * ops.sum(1 + log_variance - ops.square(mean) - ops.exp(log_variance), axis=1)
        return ops.mean(missed + divergence)


@case("models", on=("mirrored_2",))
def autoencoder(context: Context) -> dict[str, Any]:
    """A variational autoencoder with its own loss, Adam, uneven batches."""

    def build() -> keras.Model:
        built = Autoencoder()
        built.build([(None, 4, 4, 1), (None, 2)])
        return tiny.fix_weights(built, deviation=0.3)

    trained = tiny.compiled(context, build, lambda: keras.optimizers.Adam(0.01), loss=lambda: None)
    data = tf.data.Dataset.from_tensor_slices(((_values(17, 4, 4, 1), _values(17, 2)),))
    history = trained.fit(data.batch(tiny.BATCH), epochs=2, verbose=0)
    return tiny.outcome(context, trained, history)
