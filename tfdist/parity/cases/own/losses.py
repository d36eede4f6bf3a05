"""Losses that are no mean over rows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import tfdist
from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case


@tfdist.whole_batch_loss
def total_error(labels: Any, predictions: Any) -> Any:
    """The sum of all squared errors of the batch."""
    return tf.reduce_sum(tf.square(labels - predictions))


@tfdist.whole_batch_loss
class RootOfMean(keras.losses.Loss):
    """The root of the mean squared error of the batch."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return ops.sqrt(ops.mean(ops.square(y_true - y_pred)))


class Worst(keras.losses.Loss):
    """The largest error of the batch, which its user says to need the whole batch."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.max(ops.mean(ops.square(y_true - y_pred), axis=-1))


def _losses(weighted: bool) -> dict[str, Any]:
    losses = {
        "dice": keras.losses.Dice(),
        "dice_of_rows": keras.losses.Dice(axis=1),
        "tversky": keras.losses.Tversky(alpha=0.2, beta=0.8),
        "tversky_function": keras.losses.tversky,
        "circle": keras.losses.Circle(gamma=4),
        "circle_sum": keras.losses.Circle(gamma=4, reduction="sum"),
        "total": total_error,
        "worst": tfdist.whole_batch_loss(Worst()),
    }
    # Keras itself can weight neither.
    return (
        losses if weighted else losses | {"root": RootOfMean(), "axis": keras.losses.CosineSimilarity(axis=0)}
    )


@case(
    "whole batch",
    each=["unweighted", "weighted"],
    on=("mirrored_2", "workers_2x1", "mesh_2x2"),
    stands_for_family=True,
)
def whole_batch_losses(context: Context, kind: str) -> dict[str, Any]:
    """Keras's losses that are no mean over rows, and own ones that say so, each on a head; uneven batches."""
    names = list(_losses(kind == "weighted"))

    def build() -> keras.Model:
        inputs = keras.Input((tiny.FEATURES,))
        heads = {name: keras.layers.Dense(tiny.CLASSES, activation="sigmoid", name=name) for name in names}
        return tiny.fix_weights(keras.Model(inputs, {name: head(inputs) for name, head in heads.items()}))

    model = tiny.compiled(
        context,
        build,
        lambda: keras.optimizers.SGD(0.02),
        lambda: _losses(kind == "weighted"),
        metrics={"dice": [keras.losses.dice]},
    )
    features, labels = tiny.rows(31)
    codes = np.eye(tiny.CLASSES, dtype="float32")[labels]
    weights = np.linspace(0, 2, 31).astype("float32")
    history = model.fit(
        features,
        {name: labels if name.startswith("circle") else codes for name in names},
        sample_weight=dict.fromkeys(names, weights) if kind == "weighted" else None,
        batch_size=tiny.BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
    )
    return tiny.outcome(context, model, history)
