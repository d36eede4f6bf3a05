"""Training steps of the user's own that use gradients before they are summed, or that depend on the replica."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.faults.model import compiled, fault, layers

Change = Callable[[list[Any]], list[Any]]


class OwnStep(keras.Sequential):
    """A model whose `train_step` changes its gradients before it applies them."""

    change: Change

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = self.change(tape.gradient(loss, self.trainable_variables))
        self.apply(gradients)
        return {"loss": loss}

    def apply(self, gradients: list[Any]) -> None:
        """Applies gradients."""
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))


class ByHand(OwnStep):
    """Changes the weights without an optimizer."""

    def apply(self, gradients: list[Any]) -> None:
        """Applies gradients."""
        for gradient, variable in zip(gradients, self.trainable_variables, strict=True):
            variable.assign(variable - 0.1 * gradient)


class RateByNorm(OwnStep):
    """Sets the learning rate by the norm of the gradients of a replica."""

    def apply(self, gradients: list[Any]) -> None:
        """Applies gradients."""
        self.optimizer.learning_rate.assign(0.1 / (1.0 + tf.linalg.global_norm(gradients)))
        super().apply(gradients)


class Sharpness(OwnStep):
    """Takes the gradients at weights that were moved along the gradients of a replica (SAM)."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        first = tape.gradient(loss, self.trainable_variables)
        moves = [0.5 * gradient / (tf.linalg.global_norm(first) + 1e-9) for gradient in first]
        for variable, move in zip(self.trainable_variables, moves, strict=True):
            variable.assign(variable + move)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        second = tape.gradient(loss, self.trainable_variables)
        for variable, move in zip(self.trainable_variables, moves, strict=True):
            variable.assign(variable - move)
        self.apply(second)
        return {"loss": loss}


def _own(kind: type[OwnStep], change: Change) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        model = kind(layers())
        model.change = change
        model.compile(
            keras.optimizers.SGD(0.5, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return model

    return build


def _first_only(gradients: list[Any]) -> list[Any]:
    context = tf.distribute.get_replica_context()
    number = 0 if context is None else context.replica_id_in_sync_group
    return [gradient * tf.cast(tf.equal(number, 0), tf.float32) for gradient in gradients]


CHANGES: dict[str, tuple[type[OwnStep], Change]] = {
    "step: clip_by_global_norm before apply_gradients": (
        OwnStep,
        lambda g: tf.clip_by_global_norm(g, 0.1)[0],
    ),
    "step: clip_by_norm before apply_gradients": (
        OwnStep,
        lambda g: [tf.clip_by_norm(one, 0.05) for one in g],
    ),
    "step: clip_by_value before apply_gradients": (
        OwnStep,
        lambda g: [tf.clip_by_value(one, -0.01, 0.01) for one in g],
    ),
    "step: the sign of the gradients": (OwnStep, lambda g: [tf.sign(one) for one in g]),
    "step: gradients divided by their norm": (OwnStep, lambda g: [one / (tf.norm(one) + 1e-6) for one in g]),
    "step: squared gradients": (OwnStep, lambda g: [one * tf.abs(one) for one in g]),
    "step: gradients of the first replica alone": (OwnStep, _first_only),
    "step: gradients divided by the number of replicas": (
        OwnStep,
        lambda g: [one / tf.distribute.get_strategy().num_replicas_in_sync for one in g],
    ),
    "step: gradients damped by their size": (
        OwnStep,
        lambda g: [one / (1.0 + 10.0 * tf.norm(one)) for one in g],
    ),
    "step: weights changed without an optimizer": (ByHand, lambda g: g),
    "step: a learning rate by the norm of gradients": (RateByNorm, lambda g: g),
    "step: sharpness-aware": (Sharpness, lambda g: g),
}

for _name, (_kind, _change) in CHANGES.items():
    fault(_name)(_own(_kind, _change))


class LogsOfRows(keras.Sequential):
    """Returns a log that is no mean over rows."""

    log: Callable[[Any], Any]

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step."""
        return super().train_step(data) | {"own": self.log(data[0])}


def _logging(log: Callable[[Any], Any]) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        model = LogsOfRows(layers())
        model.log = log
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    return build


fault("logs: the largest value of the rows")(_logging(tf.reduce_max))
fault("logs: the number of rows")(_logging(lambda x: tf.cast(tf.shape(x)[0], tf.float32)))
fault("logs: a norm over the rows")(_logging(tf.norm))


@fault("optimizer: noise from the gradients' own norm")
def _optimizer() -> keras.Model:
    class OwnNorm(keras.optimizers.SGD):
        def apply_gradients(self, grads_and_vars: Any) -> Any:
            pairs = [
                (gradient / (tf.norm(gradient) + 1e-3), variable) for gradient, variable in grads_and_vars
            ]
            return super().apply_gradients(pairs)

    class Before(OwnStep):
        def apply(self, gradients: list[Any]) -> None:
            halves = [gradient / (1.0 + tf.norm(gradient)) for gradient in gradients]
            super().apply(halves)

    model = Before(layers())
    model.change = lambda gradients: gradients
    model.compile(OwnNorm(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@fault("penalty: add_loss of a sum over the rows")
def _penalty() -> keras.Model:
    class Penalty(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            self.add_loss(0.1 * keras.ops.sum(keras.ops.square(inputs)))
            return inputs

    return compiled(None, Penalty)
