"""One layer after the other, each trained in a branch of its own; and a tagger of masked sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, case

layers = keras.layers

VECTOR, SEQUENCE, IMAGE, VOLUME = (8,), (6, 4), (6, 6, 2), (4, 4, 4, 2)

# For each layer the shape of its input, and a function that makes the layer.
Branch = tuple[tuple[int, ...], Callable[[], Any]]


def _merging(merge: Callable[[], keras.layers.Layer]) -> Branch:
    return SEQUENCE, lambda: lambda x: merge()([x, layers.Dense(4)(x)])


# Layers that draw random numbers are under "randomness", those that take ids or text under "steps" and "inputs".
LAYERS: dict[str, dict[str, Branch]] = {
    "activations": {
        "Dense": (VECTOR, lambda: layers.Dense(4, activation="tanh")),
        "EinsumDense": (SEQUENCE, lambda: layers.EinsumDense("abc,cd->abd", (6, 4), bias_axes="d")),
        "Activation": (VECTOR, lambda: layers.Activation("softmax")),
        "ELU": (VECTOR, layers.ELU),
        "LeakyReLU": (VECTOR, layers.LeakyReLU),
        "PReLU": (VECTOR, lambda: layers.PReLU("uniform")),
        "ReLU": (VECTOR, layers.ReLU),
        "Softmax": (SEQUENCE, layers.Softmax),
    },
    "convolutions": {
        "Conv1D": (SEQUENCE, lambda: layers.Conv1D(4, 3)),
        "Conv2D": (IMAGE, lambda: layers.Conv2D(4, 3, strides=2)),
        "Conv3D": (VOLUME, lambda: layers.Conv3D(2, 2)),
        "Conv1DTranspose": (SEQUENCE, lambda: layers.Conv1DTranspose(4, 3)),
        "Conv2DTranspose": (IMAGE, lambda: layers.Conv2DTranspose(2, 3)),
    },
    "poolings": {
        "MaxPooling1D": (SEQUENCE, lambda: layers.MaxPooling1D(2)),
        "MaxPooling2D": (IMAGE, lambda: layers.MaxPooling2D(2)),
        "GlobalAveragePooling1D": (SEQUENCE, layers.GlobalAveragePooling1D),
        "GlobalAveragePooling2D": (IMAGE, layers.GlobalAveragePooling2D),
        "GlobalMaxPooling1D": (SEQUENCE, layers.GlobalMaxPooling1D),
        "GlobalMaxPooling2D": (IMAGE, layers.GlobalMaxPooling2D),
    },
    # A mesh makes their gradients itself.
    "windows": {
        "AveragePooling1D": (SEQUENCE, lambda: layers.AveragePooling1D(3, strides=2, padding="same")),
        "AveragePooling2D": (IMAGE, lambda: layers.AveragePooling2D((2, 3), strides=(2, 1))),
        "AveragePooling3D": (VOLUME, lambda: layers.AveragePooling3D(2, strides=1, padding="same")),
        "AdaptiveAveragePooling2D": (IMAGE, lambda: layers.AdaptiveAveragePooling2D(4)),
        "AdaptiveMaxPooling1D": (SEQUENCE, lambda: layers.AdaptiveMaxPooling1D(4)),
    },
    "channels": {
        "DepthwiseConv1D": (SEQUENCE, lambda: layers.DepthwiseConv1D(2, dilation_rate=2)),
        "DepthwiseConv2D": (IMAGE, lambda: layers.DepthwiseConv2D((3, 2), 2, "same", depth_multiplier=2)),
        "SeparableConv1D": (SEQUENCE, lambda: layers.SeparableConv1D(4, 3)),
        "SeparableConv2D": (IMAGE, lambda: layers.SeparableConv2D(4, 3, strides=2)),
        "Conv2D_grouped": (IMAGE, lambda: layers.Conv2D(4, 3, groups=2)),
        "Conv3D_grouped": (VOLUME, lambda: layers.Conv3D(2, 2, groups=2)),
        "Conv2D_dilated": (IMAGE, lambda: layers.Conv2D(4, 2, dilation_rate=2)),
    },
    "shapes": {
        "Cropping1D": (SEQUENCE, lambda: layers.Cropping1D(1)),
        "Cropping2D": (IMAGE, lambda: layers.Cropping2D(1)),
        "ZeroPadding1D": (SEQUENCE, lambda: layers.ZeroPadding1D(1)),
        "ZeroPadding2D": (IMAGE, lambda: layers.ZeroPadding2D(1)),
        "UpSampling1D": (SEQUENCE, lambda: layers.UpSampling1D(2)),
        "UpSampling2D": (IMAGE, lambda: layers.UpSampling2D(2)),
        "Flatten": (SEQUENCE, layers.Flatten),
        "Permute": (SEQUENCE, lambda: layers.Permute((2, 1))),
        "RepeatVector": (VECTOR, lambda: layers.RepeatVector(3)),
        "Reshape": (VECTOR, lambda: layers.Reshape((2, 4))),
        "Rescaling": (IMAGE, lambda: layers.Rescaling(0.5, 0.1)),
        "Resizing": (IMAGE, lambda: layers.Resizing(4, 4)),
    },
    "attentions": {
        "Attention": (SEQUENCE, lambda: lambda x: layers.Attention(use_scale=True)([x, x])),
        "AdditiveAttention": (SEQUENCE, lambda: lambda x: layers.AdditiveAttention()([x, x])),
        "MultiHeadAttention": (SEQUENCE, lambda: lambda x: layers.MultiHeadAttention(2, 4)(x, x)),
        "GroupQueryAttention": (SEQUENCE, lambda: lambda x: layers.GroupQueryAttention(4, 4, 2)(x, x)),
    },
    "merges": {
        "Add": _merging(layers.Add),
        "Average": _merging(layers.Average),
        "Concatenate": _merging(layers.Concatenate),
        "Dot": _merging(lambda: layers.Dot(2)),
        "Maximum": _merging(layers.Maximum),
        "Multiply": _merging(layers.Multiply),
        "Subtract": _merging(layers.Subtract),
    },
    "normalizations": {
        "GroupNormalization": (IMAGE, lambda: layers.GroupNormalization(2)),
        "RMSNormalization": (SEQUENCE, layers.RMSNormalization),
        "UnitNormalization": (VECTOR, layers.UnitNormalization),
        "SpectralNormalization": (VECTOR, lambda: layers.SpectralNormalization(layers.Dense(4))),
        "ActivityRegularization": (VECTOR, lambda: layers.ActivityRegularization(l2=0.01)),
    },
    "statistics": {
        "BatchNormalization": (VECTOR, lambda: layers.BatchNormalization(synchronized=True)),
        "LayerNormalization": (SEQUENCE, layers.LayerNormalization),
    },
}

# Few steps and few layers in a group, since a mesh unrolls them and takes long to compile that.
STEPS = (4, 4)
RECURRENT: dict[str, dict[str, Branch]] = {
    "long memory": {"LSTM": (STEPS, lambda: layers.LSTM(4))},
    "gated units": {"GRU": (STEPS, lambda: layers.GRU(4, return_sequences=True))},
    "both directions": {"Bidirectional": (STEPS, lambda: layers.Bidirectional(layers.GRU(4)))},
    "simple units": {
        "SimpleRNN": (STEPS, lambda: layers.SimpleRNN(4)),
        "TimeDistributed": (STEPS, lambda: layers.TimeDistributed(layers.Dense(4))),
    },
}


# Of replicas it is the page that shows each layer: they differ in none but those that see several rows at once.
@case("layers", each=LAYERS, on=("mirrored_2",), every_item=("mesh_2x2",), stands_for_family=True)
def layer(context: Context, group: str) -> dict[str, Any]:
    """Layers, each between two dense ones in a branch of its own, momentum, uneven batches."""
    return _trained(context, LAYERS[group])


@case("recurrent", each=RECURRENT, on=("mirrored_2",), every_item=("mesh_2x2",), stands_for_family=True)
def recurrent(context: Context, group: str) -> dict[str, Any]:
    """Layers over time, each between two dense ones in a branch of its own, momentum, uneven batches."""
    return _trained(context, RECURRENT[group])


def _trained(context: Context, branches: Mapping[str, Branch]) -> dict[str, Any]:
    """Trains all branches in one model that takes the mean of what they give; arrays are named by the branch.

    One loss for all keeps the program small, of which a mesh compiles every operation. A sum would have the rounding
    errors of all branches.
    """

    def branch(name: str) -> keras.Model:
        shape, create = branches[name]
        features = keras.Input((tiny.FEATURES,))
        hidden = create()(layers.Reshape(shape)(layers.Dense(math.prod(shape), "tanh")(features)))
        return keras.Model(features, layers.Dense(tiny.CLASSES)(layers.Flatten()(hidden)), name=name)

    def build() -> keras.Model:
        features = keras.Input((tiny.FEATURES,))
        logits = [branch(name)(features) for name in branches]
        return tiny.fix_weights(keras.Model(features, layers.Average()(logits) if logits[1:] else logits[0]))

    model = tiny.compiled(context, build, lambda: keras.optimizers.SGD(0.3, momentum=0.9))
    features, labels = tiny.rows(30)
    options: dict[str, Any] = {"batch_size": tiny.BATCH, "verbose": 0}
    history = model.fit(features, labels, epochs=2, shuffle=False, **options)
    found = tiny.outcome(context, model, history)
    for name in branches:
        found |= tiny.weights(model.get_layer(name), f"weights/{name}")
    return found | {"predict/all": model.predict(features, **options)}


TAGS = 5


@case("recurrent", on=NARROW)
def lstm_tagger(context: Context) -> dict[str, Any]:
    """Masked embedding, LSTM and a tag for each step with weight 0 on the padding; Adam, uneven batches."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 7, (31, 1))
    inside = np.arange(6)[None, :] < lengths
    ids = generator.integers(1, 11, (31, 6)).astype("int32") * inside
    tags = generator.integers(0, TAGS, (31, 6))

    def build() -> keras.Model:
        tokens = keras.Input((6,), dtype="int32")
        embedded = layers.Embedding(11, 4, mask_zero=True)(tokens)
        states = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(embedded)
        return tiny.fix_weights(keras.Model(tokens, layers.Dense(TAGS)(states)))

    model = tiny.compiled(context, build, lambda: keras.optimizers.Adam(0.02), weighted_metrics=["accuracy"])
    weights = inside.astype("float32")
    history = model.fit(
        ids, tags, sample_weight=weights, batch_size=tiny.BATCH, epochs=2, shuffle=False, verbose=0
    )
    return tiny.outcome(context, model, history) | {
        "predict/all": model.predict(ids, batch_size=tiny.BATCH, verbose=0)
    }
