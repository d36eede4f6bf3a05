"""O14, O15, O18: metrics come from summed state, the loss is the mean over rows, evaluation counts rows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import BASE, NARROW, WIDE, case

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
    """A compiled sigmoid model, (batch, 4) to (batch, 1), with metrics, also weighted."""
    return tiny.compiled(
        context,
        lambda: tiny.dense(1, activation="sigmoid"),
        loss=lambda: "binary_crossentropy",
        metrics=[METRICS[name](name=name) for name in names],
        weighted_metrics=[METRICS[name](name=f"weighted_{name}") for name in names],
    )


# The whole list in few models: compiling costs more than counting.
GROUPS = {
    "counts": ["accuracy", "auc", "precision", "recall", "f1", "iou"],
    "errors": ["mse", "rmse", "mae", "cosine", "r2", "log_cosh"],
}


@case("O14", each=GROUPS, layouts=WIDE, meshes=True)
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


@case("O15", quick=True, meshes=True)
def reported_loss(context: Context) -> dict[str, Any]:
    """The loss of an epoch without learning is the mean over rows that numpy gives, uneven batches."""
    model = tiny.compiled(context, optimizer=lambda: keras.optimizers.SGD(0.0))
    features, labels = tiny.rows(31)
    history = model.fit(features, labels, batch_size=tiny.BATCH, epochs=1, shuffle=False, verbose=0)
    expected, _ = numpy_evaluation(model, features, labels)
    return {
        "true/numpy": np.isclose(history.history["loss"][0], expected, rtol=1e-5),
        "history/loss": np.asarray(history.history["loss"]),
    }


def numpy_evaluation(model: keras.Model, features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the mean cross-entropy and the accuracy of one dense layer."""
    kernel, bias = model.get_weights()
    logits = features.astype("f8") @ kernel + bias
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return float(losses.mean()), float((logits.argmax(axis=1) == labels).mean())


@case(
    "O18", each=["1", "3", "33", "37", "48"], layouts=BASE, every_item=NARROW, stock_workers=True, meshes=True
)
def evaluate(context: Context, count: str) -> dict[str, Any]:
    """Evaluation of 1 to 48 rows against numpy; the same on every worker."""
    model = tiny.compiled(context, metrics=["accuracy"])
    features, labels = tiny.rows(int(count))
    loss, accuracy = model.evaluate(features, labels, batch_size=tiny.BATCH, verbose=0)
    expected = numpy_evaluation(model, features, labels)
    return {
        "true/numpy": np.allclose([loss, accuracy], expected, rtol=1e-5, atol=1e-6),
        "metrics/loss": loss,
        "metrics/accuracy": accuracy,
    }
