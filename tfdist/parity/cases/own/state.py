"""The aggregation that a variable of a layer or a metric names."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case


class Seen(keras.layers.Layer):
    """Counts the rows that it has seen, sums them up, and keeps the mean of the last batch."""

    def build(self, shape: Any) -> None:
        self.count = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, aggregation="sum", name="count"
        )
        self.total = self.add_weight(
            shape=(shape[-1],), initializer="ones", trainable=False, aggregation="sum", name="total"
        )
        self.last = self.add_weight(
            shape=(shape[-1],), initializer="zeros", trainable=False, aggregation="mean", name="last"
        )

    def call(self, inputs: Any) -> Any:
        self.count.assign_add(ops.cast(ops.shape(inputs)[0], "int64"))
        self.total.assign(self.total + ops.sum(inputs, axis=0))
        self.last.assign(ops.mean(inputs, axis=0))
        return inputs


class Moving(keras.metrics.Metric):
    """The moving mean of the predictions, and how many there were."""

    def __init__(self) -> None:
        super().__init__(name="moving")
        self.mean = self.add_variable((), "zeros", aggregation="mean", name="mean")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(y_pred))
        self.count.assign_add(ops.cast(ops.shape(y_pred)[0], "float32"))

    def result(self) -> Any:
        return {"moving": self.mean + 0.0, "rows": self.count + 0.0}


class Afterwards(keras.Sequential):
    """Writes a variable after Keras's own step."""

    def train_step(self, data: Any) -> Any:
        logs = super().train_step(data)
        count = self.layers[0].count
        count.assign_add(2 * ops.cast(ops.shape(data[0])[0], "int64"))
        return logs


@case("state", on=("mirrored_2", "workers_2x1", "mesh_2x2"), stands_for_family=True)
def aggregation(context: Context) -> dict[str, Any]:
    """Sums and means in layers and metrics, in training, evaluation and prediction, uneven batches."""

    def build() -> keras.Model:
        layers = [keras.layers.Input((tiny.FEATURES,)), Seen(), keras.layers.Dense(tiny.CLASSES)]
        return tiny.fix_weights(Afterwards(layers))

    # The metric is made outside of the scope.
    model = tiny.compiled(context, build, lambda: keras.optimizers.SGD(0.1), metrics=[Moving()])
    found = tiny.fitted(context, model, 37)
    features, labels = tiny.rows(13)
    logs = model.evaluate(features, labels, batch_size=tiny.BATCH, verbose=0, return_dict=True)
    predictions = model.predict(features, batch_size=tiny.BATCH, verbose=0)
    return (
        found
        | {"predict/rows": predictions}
        | {f"metrics/{key}": value for key, value in logs.items()}
        | tiny.weights(model)
    )
