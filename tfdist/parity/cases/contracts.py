"""Losses, steps and functions that a user writes in place of built-in ones, and penalties."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case

# Two full batches of 12 rows, and one row.
COUNT = 25


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
    """Overrides `train_step`, and calls Keras's `compute_loss` for the compiled loss."""

    compute_loss = keras.Model.compute_loss

    def train_step(self, data: Any) -> Any:
        features, labels = data
        with tf.GradientTape() as tape:
            predictions = self(features, training=True)
            loss = self.compute_loss(features, labels, predictions)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.compute_metrics(features, labels, predictions)


@case("contracts", quick=True, stands_for_family=True)
def scalar_loss(context: Context) -> dict[str, Any]:
    """A loss function that returns one scalar, uneven batches."""
    return tiny.fitted(context, tiny.compiled(context, optimizer=_sgd, loss=lambda: mean_square), COUNT)


@case("contracts")
def row_loss(context: Context) -> dict[str, Any]:
    """A loss function that returns one value for each row, uneven batches."""
    return tiny.fitted(context, tiny.compiled(context, optimizer=_sgd, loss=lambda: squares), COUNT)


@case("contracts")
def compute_loss_override(context: Context) -> dict[str, Any]:
    """A model that overrides compute_loss with a scalar, uneven batches."""
    return tiny.fitted(context, tiny.compiled(context, ScalarLoss, _sgd, loss=lambda: None), COUNT)


@case("contracts")
def train_step_override(context: Context) -> dict[str, Any]:
    """A model that overrides train_step with its own tape and loss, uneven batches."""
    return tiny.fitted(context, tiny.compiled(context, OwnStep, _sgd, loss=lambda: None), COUNT)


@case("contracts")
def train_step_compiled_loss(context: Context) -> dict[str, Any]:
    """A model that overrides train_step and calls compute_loss with the compiled loss, uneven batches."""
    return tiny.fitted(context, tiny.compiled(context, StepWithComputeLoss, metrics=["accuracy"]), COUNT)


class MeanActivity(keras.layers.Layer):
    """Adds the mean square of its input as a loss and passes the input on."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(ops.mean(ops.square(inputs)))
        return inputs


@case("contracts")
def add_loss(context: Context) -> dict[str, Any]:
    """A layer that adds a mean over the rows as a loss, uneven batches."""
    return tiny.fitted(context, tiny.compiled(context, lambda: tiny.mlp(MeanActivity)), COUNT)


PENALTIES: dict[str, Any] = {
    "l2": lambda: {"kernel_regularizer": keras.regularizers.L2(0.1)},
    "activity": lambda: {"activity_regularizer": keras.regularizers.L2(0.1)},
    "both": lambda: {
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "activity_regularizer": keras.regularizers.L2(0.1),
    },
    "constraint": lambda: {"kernel_constraint": keras.constraints.MaxNorm(0.5)},
}


@case("penalties", stands_for_family=True)
def penalties(context: Context) -> dict[str, Any]:
    """Regularisers of weights and activations, both together, and a constraint, each on a head; uneven batches."""

    def build() -> keras.Model:
        inputs = keras.Input((tiny.FEATURES,))
        heads = {name: keras.layers.Dense(tiny.CLASSES, **PENALTIES[name](), name=name) for name in PENALTIES}
        return tiny.fix_weights(keras.Model(inputs, {name: head(inputs) for name, head in heads.items()}))

    model = tiny.compiled(
        context, build, _sgd, loss=lambda: {name: tiny.crossentropy() for name in PENALTIES}
    )
    features, labels = tiny.rows(31)
    history = model.fit(
        features,
        dict.fromkeys(PENALTIES, labels),
        batch_size=tiny.BATCH,
        epochs=2,
        shuffle=False,
        verbose=0,
    )
    return tiny.outcome(context, model, history)


@case("penalties")
def weight_decay(context: Context) -> dict[str, Any]:
    """Weight decay of SGD, uneven batches."""
    model = tiny.compiled(context, optimizer=lambda: keras.optimizers.SGD(0.1, weight_decay=0.5))
    return tiny.fitted(context, model, COUNT)


class OwnFunction(keras.Sequential):
    """Makes its own training function, as the Keras guides allow."""

    def make_train_function(self, force: bool = False) -> Any:
        @tf.function
        def one_step(iterator: Any) -> Any:
            strategy = self.distribute_strategy
            logs = strategy.run(self.train_step, args=(next(iterator),))
            return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], logs)

        self.train_function = one_step
        return one_step


@case("contracts", refused_by=("mesh",))
def own_train_function(context: Context) -> dict[str, Any]:
    """A model that overrides make_train_function, uneven batches."""

    def build() -> keras.Model:
        layers = [keras.layers.Input((tiny.FEATURES,)), keras.layers.Dense(tiny.CLASSES)]
        return tiny.fix_weights(OwnFunction(layers))

    return tiny.fitted(context, tiny.compiled(context, build), 31)
