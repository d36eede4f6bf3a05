"""Metrics come from summed state, evaluation counts rows, and row i of the predictions belongs to row i."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import WIDE, case

METRICS = {
    "accuracy": keras.metrics.BinaryAccuracy,
    "auc": keras.metrics.AUC,
    "precision": keras.metrics.Precision,
    "recall": keras.metrics.Recall,
    "f1": lambda **options: keras.metrics.F1Score(threshold=0.5, **options),
    "mse": keras.metrics.MeanSquaredError,
    "rmse": keras.metrics.RootMeanSquaredError,
    "mae": keras.metrics.MeanAbsoluteError,
    "cosine": keras.metrics.CosineSimilarity,
    "r2": keras.metrics.R2Score,
    "iou": lambda **options: keras.metrics.BinaryIoU(threshold=0.5, **options),
    "log_cosh": keras.metrics.LogCoshError,
}


class BatchLogs(keras.callbacks.Callback):
    """Keeps the logs of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.logs: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.batches.append(batch)
        self.logs.append(dict(logs or {}))


def binary(context: Context, names: list[str]) -> keras.Model:
    """Returns a compiled sigmoid model, (batch, 4) to (batch, 1), with metrics, also weighted."""
    return tiny.compiled(
        context,
        lambda: tiny.dense(1, activation="sigmoid"),
        loss=lambda: "binary_crossentropy",
        metrics=[METRICS[name](name=name) for name in names],
        weighted_metrics=[METRICS[name](name=f"weighted_{name}") for name in names],
    )


# All metrics are in few models, because compiling costs more than counting.
GROUPS = {
    "counts": ["accuracy", "auc", "precision", "recall", "f1", "iou"],
    "distances": ["mse", "mae", "cosine", "log_cosh"],
    "roots": ["rmse", "r2"],
}


@case("metrics", each=GROUPS, on=WIDE)
def built_in_metrics(context: Context, group: str) -> dict[str, Any]:
    """Metrics, also weighted, of every epoch, every batch, validation and evaluation; uneven batches."""
    with context.scope():
        model = binary(context, GROUPS[group])
    features, labels = tiny.rows(31)
    targets = (labels[:, None] > 0).astype("float32")
    weights = np.linspace(0.1, 3, 31).astype("float32")
    logs = BatchLogs()
    history = model.fit(
        features,
        targets,
        sample_weight=weights,
        validation_data=(features[:17], targets[:17], weights[:17]),
        batch_size=tiny.BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[logs],
    )
    found = tiny.outcome(context, model, history)
    found |= {f"metrics/batch {name}": np.asarray([log[name] for log in logs.logs]) for name in logs.logs[0]}
    found["true/last batch is the epoch"] = all(
        np.isclose(logs.logs[2][name], history.history[name][0], rtol=1e-6, atol=1e-7)
        for name in logs.logs[2]
    )
    evaluated = model.evaluate(
        features, targets, sample_weight=weights, batch_size=tiny.BATCH, return_dict=True, verbose=0
    )
    return found | {f"metrics/evaluate {name}": value for name, value in evaluated.items()}


@case("metrics", quick=True, stands_for_family=True)
def reported_loss(context: Context) -> dict[str, Any]:
    """Loss and accuracy of an epoch without learning are those over rows that numpy gives, uneven batches."""
    model = tiny.compiled(context, optimizer=lambda: keras.optimizers.SGD(0.0), metrics=["accuracy"])
    features, labels = tiny.rows(31)
    history = model.fit(features, labels, batch_size=tiny.BATCH, epochs=1, shuffle=False, verbose=0)
    found = {name: np.asarray(history.history[name]) for name in ("loss", "accuracy")}
    expected = numpy_evaluation(model, features, labels)
    return {
        "true/numpy": np.allclose(np.ravel(list(found.values())), expected, rtol=1e-5),
        **{f"history/{name}": values for name, values in found.items()},
    }


def numpy_evaluation(model: keras.Model, features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the mean cross-entropy and the accuracy of one dense layer."""
    kernel, bias = model.get_weights()
    logits = features.astype("f8") @ kernel + bias
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return float(losses.mean()), float((logits.argmax(axis=1) == labels).mean())


@case("evaluation", stock_workers=True, stands_for_family=True)
def evaluate(context: Context) -> dict[str, Any]:
    """Evaluation of 1, then 3, 33, 37 and 48 rows against numpy; the same on every worker."""
    model = tiny.compiled(context, metrics=["accuracy"])
    found: dict[str, Any] = {}
    for count in (1, 3, 33, 37, 48):
        features, labels = tiny.rows(count)
        loss, accuracy = model.evaluate(features, labels, batch_size=tiny.BATCH, verbose=0)
        expected = numpy_evaluation(model, features, labels)
        found |= {
            f"true/numpy {count}": np.allclose([loss, accuracy], expected, rtol=1e-5, atol=1e-6),
            f"metrics/loss {count}": loss,
            f"metrics/accuracy {count}": accuracy,
        }
    return found


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


COUNTS = {
    "numpy": [48, 37, 33, 13, 5, 1],
    "batch of 7": [37, 5],
    "tf.data": [48, 37, 1],
    "pydataset": [37, 5],
    "generator": [24, 17, 13],
}


@case("predictions", on=WIDE, stock_workers=True, stands_for_family=True)
def predict(context: Context) -> dict[str, Any]:
    """Predictions of every source for an even and several uneven numbers of rows against numpy."""
    model = tiny.compiled(context)
    kernel, bias = model.get_weights()
    found: dict[str, Any] = {}
    for source, create in SOURCES.items():
        for count in COUNTS[source]:
            features, _ = tiny.rows(count)
            predictions = model.predict(verbose=0, **create(features))
            found[f"exact/count of {source} {count}"] = len(predictions)
            found[f"predict/{source} {count}"] = predictions
            found[f"true/numpy of {source} {count}"] = len(predictions) == count and np.allclose(
                predictions, features @ kernel + bias, rtol=1e-5, atol=1e-5
            )
    return found


@case("predictions")
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


@case("predictions", on=WIDE)
def on_batch(context: Context) -> dict[str, Any]:
    """train_on_batch, test_on_batch and predict_on_batch with a batch of one row, then of 7 and of 12."""
    model = tiny.compiled(context, tiny.mlp, metrics=["accuracy"])
    found: dict[str, Any] = {}
    for count in (1, 7, 12):
        features, labels = tiny.rows(count)
        model.reset_metrics()
        trained = [model.train_on_batch(features, labels) for _ in range(3)]
        weights = np.linspace(0.5, 2, count).astype("float32")
        weighted = model.train_on_batch(features, labels, sample_weight=weights)
        model.reset_metrics()
        tested = model.test_on_batch(features, labels)
        predictions = model.predict_on_batch(features)
        result = tiny.outcome(context, model) | {
            "metrics/trained": np.asarray(trained),
            "metrics/weighted": np.asarray(weighted),
            "metrics/tested": np.asarray(tested),
            "predict/batch": predictions,
            "exact/count": len(predictions),
        }
        found |= {f"{key} of {count}": value for key, value in result.items()}
    return found
