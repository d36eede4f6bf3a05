"""Every kind of input that one device takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import MESH, NARROW, NO_MESH, case

# Two full batches and one of five.
COUNT = 29

Built = tuple[keras.Model, Any]


def _dataset(features: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((features, tiny.rows(COUNT)[1])).batch(tiny.BATCH)


def _classify(inputs: Any, hidden: Any) -> keras.Model:
    return tiny.fix_weights(keras.Model(inputs, keras.layers.Dense(tiny.CLASSES)(hidden)))


def nested() -> Built:
    """Returns a dict with a list and a dict, Booleans and bytes among them."""
    inputs: dict[str, Any] = {
        "a": [keras.Input((2,)), keras.Input((2,))],
        "b": {"c": keras.Input((4,)), "mask": keras.Input((4,), dtype="bool")},
        "bytes": keras.Input((4,), dtype="uint8"),
    }
    shown = keras.layers.Lambda(lambda pair: pair[0] * keras.ops.cast(pair[1], "float32"))(
        [inputs["b"]["c"], inputs["b"]["mask"]]
    )
    scaled = keras.layers.Rescaling(1 / 255)(inputs["bytes"])
    joined = keras.layers.concatenate([*inputs["a"], inputs["b"]["c"], shown, scaled])
    features, _ = tiny.rows(COUNT)
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 4)).astype("uint8")
    data = {
        "a": (features[:, :2], features[:, 2:]),
        "b": {"c": features, "mask": features > 0},
        "bytes": pixels,
    }
    return _classify(inputs, joined), _dataset(data)


def strings() -> Built:
    """Words that the model looks up."""
    words = np.asarray(["red", "green", "blue", "grey"])[np.random.default_rng(0).integers(0, 4, (COUNT, 3))]
    inputs = keras.Input((3,), dtype="string")
    ids = keras.layers.StringLookup(vocabulary=["red", "green", "blue"])(inputs)
    return _classify(inputs, keras.layers.Flatten()(keras.layers.Embedding(4, 4)(ids))), _dataset(words)


def ragged() -> Built:
    """Ragged lists of ids."""
    generator = np.random.default_rng(0)
    ids = tf.ragged.constant(
        [generator.integers(1, 9, 1 + row % 5).tolist() for row in range(COUNT)], dtype="int32"
    )
    inputs = keras.Input((None,), dtype="int32", ragged=True)
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(inputs))
    return _classify(inputs, hidden), _dataset(ids)


def sparse() -> Built:
    """Sparse features."""
    features, _ = tiny.rows(COUNT)
    inputs = keras.Input((4,), sparse=True)
    return _classify(inputs, inputs), _dataset(tf.sparse.from_dense(np.where(features > 0, features, 0)))


TYPES: dict[str, Callable[[], Built]] = {"strings": strings, "ragged": ragged}


@case("inputs", stands_for_family=True)
def nested_inputs(context: Context) -> dict[str, Any]:
    """Inputs in a dict of lists and dicts, floats, Booleans and bytes; uneven batches."""
    return _trained(context, nested)


@case("inputs", each=TYPES, every_item=NARROW, refused_by=NO_MESH)
def inputs(context: Context, kind: str) -> dict[str, Any]:
    """Inputs of other types, uneven batches."""
    return _trained(context, TYPES[kind])


@case("inputs", on=(*NARROW, MESH))
def sparse_inputs(context: Context) -> dict[str, Any]:
    """Sparse inputs, which a mesh makes dense batch by batch; uneven batches."""
    return _trained(context, sparse)


def _trained(context: Context, build: Callable[[], Built]) -> dict[str, Any]:
    with context.scope():
        model, data = build()
        model.compile(keras.optimizers.SGD(0.5), tiny.crossentropy(), metrics=["accuracy"])
    history = model.fit(data, epochs=2, verbose=0)
    predictions = model.predict(data, verbose=0)
    return tiny.outcome(context, model, history) | {
        "predict/all": predictions,
        "exact/count": len(predictions),
    }
