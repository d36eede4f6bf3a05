"""O4 and O5: what the user wrote instead of a built-in loss, and penalties on weights and activations."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import NARROW, case

# The last batch has 6 of 12 rows where rows divide evenly, and one row where they do not.
COUNTS = {"even": 30, "uneven": 25}


def _sgd() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.1)


def squares(labels: Any, predictions: Any) -> Any:
    """Squared distance of the logits from the label, for each row: (batch, 3) to (batch,)."""
    return ops.mean(ops.square(ops.cast(ops.reshape(labels, (-1, 1)), "float32") - predictions), axis=-1)


def mean_square(labels: Any, predictions: Any) -> Any:
    """The mean of `squares` over the rows: a scalar."""
    return ops.mean(squares(labels, predictions))


class ScalarLoss(keras.Model):
    """Overrides `compute_loss` with a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = tiny.dense()

    def call(self, inputs: Any) -> Any:
        return self.dense(inputs)

    def compute_loss(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True
    ) -> Any:
        return mean_square(y, y_pred)


class OwnStep(ScalarLoss):
    """Overrides `train_step` as the Keras guide shows: own tape, own loss, own metric."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [self.tracker]

    def train_step(self, data: Any) -> dict[str, Any]:
        features, labels = data
        with tf.GradientTape() as tape:
            loss = mean_square(labels, self(features, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.tracker.update_state(loss, sample_weight=ops.shape(features)[0])
        return {"loss": self.tracker.result()}


class StepWithComputeLoss(ScalarLoss):
    """Overrides `train_step` and asks `compute_loss` of Keras for the compiled loss."""

    compute_loss = keras.Model.compute_loss

    def train_step(self, data: Any) -> Any:
        features, labels = data
        with tf.GradientTape() as tape:
            predictions = self(features, training=True)
            loss = self.compute_loss(features, labels, predictions)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.compute_metrics(features, labels, predictions)


@case("O4", each=COUNTS, quick=True, meshes=True)
def scalar_loss(context: Context, count: str) -> dict[str, Any]:
    """A loss function that returns one scalar."""
    return tiny.fitted(
        context, tiny.compiled(context, optimizer=_sgd, loss=lambda: mean_square), COUNTS[count]
    )


@case("O4")
def row_loss(context: Context) -> dict[str, Any]:
    """A loss function that returns one value for each row, uneven batches."""
    return tiny.fitted(
        context, tiny.compiled(context, optimizer=_sgd, loss=lambda: squares), COUNTS["uneven"]
    )


@case("O4", each=COUNTS, meshes=True)
def compute_loss_override(context: Context, count: str) -> dict[str, Any]:
    """A model that overrides compute_loss with a scalar."""
    return tiny.fitted(context, tiny.compiled(context, ScalarLoss, _sgd, loss=lambda: None), COUNTS[count])


@case("O4", each=COUNTS, meshes=True)
def train_step_override(context: Context, count: str) -> dict[str, Any]:
    """A model that overrides train_step with its own tape and loss."""
    return tiny.fitted(context, tiny.compiled(context, OwnStep, _sgd, loss=lambda: None), COUNTS[count])


@case("O4", each=COUNTS)
def train_step_compiled_loss(context: Context, count: str) -> dict[str, Any]:
    """A model that overrides train_step and calls compute_loss with the compiled loss."""
    return tiny.fitted(
        context, tiny.compiled(context, StepWithComputeLoss, metrics=["accuracy"]), COUNTS[count]
    )


class MeanActivity(keras.layers.Layer):
    """Adds the mean square of its input as a loss and passes the input on."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(ops.mean(ops.square(inputs)))
        return inputs


@case("O4", each=COUNTS, meshes=True)
def add_loss(context: Context, count: str) -> dict[str, Any]:
    """A layer that adds a mean over the rows as a loss."""
    return tiny.fitted(context, tiny.compiled(context, lambda: tiny.mlp(MeanActivity)), COUNTS[count])


PENALTIES = {
    "l2": lambda: tiny.dense(kernel_regularizer=keras.regularizers.L2(0.1)),
    "activity": lambda: tiny.dense(activity_regularizer=keras.regularizers.L2(0.1)),
    "constraint": lambda: tiny.dense(kernel_constraint=keras.constraints.MaxNorm(0.5)),
}


@case("O5", each=PENALTIES, meshes=True)
def penalty(context: Context, name: str) -> dict[str, Any]:
    """Regularisers and constraints."""
    return tiny.fitted(context, tiny.compiled(context, PENALTIES[name], _sgd))


@case("O5")
def penalties_uneven(context: Context) -> dict[str, Any]:
    """Activity and weight regularisers together, uneven batches."""

    def build() -> keras.Model:
        penalty = keras.regularizers.L2(0.1)
        return tiny.dense(kernel_regularizer=penalty, activity_regularizer=penalty)

    return tiny.fitted(context, tiny.compiled(context, build, _sgd), 31)


@case("O5", layouts=NARROW, meshes=True)
def weight_decay(context: Context) -> dict[str, Any]:
    """Weight decay of SGD."""
    model = tiny.compiled(context, optimizer=lambda: keras.optimizers.SGD(0.1, weight_decay=0.5))
    return tiny.fitted(context, model)
