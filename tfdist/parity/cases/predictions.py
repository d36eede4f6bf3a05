"""O17: row i of the predictions belongs to row i of the inputs, and there are as many."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, WIDE, case


class Batches(keras.utils.PyDataset):
    """Features in batches of 12."""

    def __init__(self, features: np.ndarray) -> None:
        super().__init__()
        self.features = features

    def __len__(self) -> int:
        return math.ceil(len(self.features) / tiny.BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        return (self.features[index * tiny.BATCH : (index + 1) * tiny.BATCH],)


SOURCES: dict[str, Callable[[np.ndarray], dict[str, Any]]] = {
    "numpy": lambda features: {"x": features, "batch_size": tiny.BATCH},
    "batch of 7": lambda features: {"x": features, "batch_size": 7},
    "tf.data": lambda features: {"x": tf.data.Dataset.from_tensor_slices(features).batch(tiny.BATCH)},
    "pydataset": lambda features: {"x": Batches(features)},
    "generator": lambda features: {"x": (batch for batch in [(features[:12],), (features[12:],)])},
}


@case("O17", each=SOURCES, layouts=WIDE, every_item=NARROW, stock_workers=True, meshes=True)
def predict(context: Context, source: str) -> dict[str, Any]:
    """Predictions for 48, 37, 33, 13 and (arrays only) 5 and 1 rows against numpy."""
    model = tiny.compiled(context)
    kernel, bias = model.get_weights()
    found: dict[str, Any] = {}
    counts = {"generator": [24, 17, 13]}.get(source, [48, 37, 33, 13, 5, 1])
    for count in counts:
        features, _ = tiny.rows(count)
        predictions = model.predict(verbose=0, **SOURCES[source](features))
        found[f"exact/count {count}"] = len(predictions)
        found[f"predict/{count}"] = predictions
        found[f"true/numpy {count}"] = len(predictions) == count and np.allclose(
            predictions, features @ kernel + bias, rtol=1e-5, atol=1e-5
        )
    return found


@case("O17", meshes=True)
def predict_structures(context: Context) -> dict[str, Any]:
    """A dict with a list of outputs of different shapes, uneven batches."""

    def build() -> keras.Model:
        inputs = keras.Input((4,))
        outputs = {
            "a": keras.layers.Dense(2)(inputs),
            "b": [keras.layers.Reshape((2, 2))(inputs), inputs[:, 0]],
        }
        return tiny.fix_weights(keras.Model(inputs, outputs))

    model = tiny.compiled(context, build, loss=lambda: None)
    found = model.predict(tiny.rows(31)[0], batch_size=tiny.BATCH, verbose=0)
    flat = {"a": found["a"], "b0": found["b"][0], "b1": found["b"][1]}
    return {f"predict/{name}": value for name, value in flat.items()}


@case("O17", each=["12", "7", "1"], layouts=WIDE, every_item=NARROW, meshes=True)
def on_batch(context: Context, count: str) -> dict[str, Any]:
    """train_on_batch, test_on_batch and predict_on_batch with a batch of 12, 7 or 1 rows."""
    model = tiny.compiled(context, tiny.mlp, metrics=["accuracy"])
    features, labels = tiny.rows(int(count))
    trained = [model.train_on_batch(features, labels) for _ in range(3)]
    weights = np.linspace(0.5, 2, int(count)).astype("float32")
    weighted = model.train_on_batch(features, labels, sample_weight=weights)
    model.reset_metrics()
    tested = model.test_on_batch(features, labels)
    predictions = model.predict_on_batch(features)
    return tiny.outcome(context, model) | {
        "metrics/trained": np.asarray(trained),
        "metrics/weighted": np.asarray(weighted),
        "metrics/tested": np.asarray(tested),
        "predict/batch": predictions,
        "exact/count": len(predictions),
    }
