"""Clipping, accumulation, loss scaling and averaging act on the global gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import WIDE, case

CLIPPINGS = {"clipnorm": 0.05, "clipvalue": 0.02, "global_clipnorm": 0.05}


@case("clipping", each=CLIPPINGS, quick=True, stands_for_family=True)
def clipping(context: Context, name: str) -> dict[str, Any]:
    """A clipping bound that is active at every step, uneven batches."""
    model = tiny.compiled(context, tiny.mlp, lambda: keras.optimizers.SGD(0.5, **{name: CLIPPINGS[name]}))
    return tiny.fitted(context, model, 25)


def _decaying() -> keras.optimizers.schedules.LearningRateSchedule:
    return keras.optimizers.schedules.ExponentialDecay(0.5, decay_steps=1, decay_rate=0.5)


ACCUMULATIONS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd": lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2),
    "adam, 3 steps": lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=3),
    "clipped": lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2, global_clipnorm=0.05),
    "scheduled": lambda: keras.optimizers.SGD(_decaying(), gradient_accumulation_steps=2),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.5, gradient_accumulation_steps=2)
    ),
}


@case("accumulation", each=ACCUMULATIONS, stands_for_family=True)
def accumulation(context: Context, name: str) -> dict[str, Any]:
    """Gradient accumulation over 9 batches, uneven batches, an update over the end of an epoch."""
    return tiny.fitted(context, tiny.compiled(context, tiny.mlp, ACCUMULATIONS[name]), 29, epochs=3)


@case("accumulation", quick=True)
def accumulation_is_one_large_step(context: Context) -> dict[str, Any]:
    """Two batches of 6 accumulated are one batch of 12, and the steps count updates."""
    large = tiny.compiled(context, tiny.mlp)
    small = tiny.compiled(context, tiny.mlp, lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=2))
    tiny.fitted(context, large, 36)
    found = tiny.fitted(context, small, 36, batch_size=tiny.BATCH // 2)
    pairs = zip(large.get_weights(), small.get_weights(), strict=True)
    return found | {"true/one large step": all(np.allclose(a, b, rtol=0, atol=1e-6) for a, b in pairs)}


@case("loss scaling", on=WIDE, stands_for_family=True)
def poisoned_row(context: Context) -> dict[str, Any]:
    """An infinite row on each replica in turn: the step is skipped everywhere and the scale halves once."""
    model = tiny.compiled(
        context, optimizer=lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    )
    features, labels = tiny.rows(tiny.BATCH)
    found: dict[str, Any] = {}
    for row in (0, 3, 6, 9):
        poisoned = features.copy()
        poisoned[row] = np.inf
        for name, inputs in (("poisoned", poisoned), ("clean", features)):
            model.fit(inputs, labels, batch_size=tiny.BATCH, shuffle=False, verbose=0)
            found |= {f"{key} {name} {row}": value for key, value in tiny.outcome(context, model).items()}
            found[f"exact/scale {name} {row}"] = float(model.optimizer.dynamic_scale.numpy())
    return found


@case("loss scaling")
def growing_scale(context: Context) -> dict[str, Any]:
    """The loss scale doubles after the set number of finite steps."""
    model = tiny.compiled(
        context,
        tiny.mlp,
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.05), dynamic_growth_steps=2),
    )
    return tiny.fitted(context, model) | {"exact/scale": float(model.optimizer.dynamic_scale.numpy())}


AVERAGES: dict[str, dict[str, Any]] = {
    "plain": {"use_ema": True, "ema_momentum": 0.9},
    "overwriting": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 2},
}


@case("averages", each=AVERAGES, stands_for_family=True)
def average(context: Context, name: str) -> dict[str, Any]:
    """Moving average of the weights, uneven batches."""
    return tiny.fitted(
        context, tiny.compiled(context, optimizer=lambda: keras.optimizers.SGD(0.5, **AVERAGES[name])), 55
    )


class NormalizedApply(keras.optimizers.SGD):
    """Uses the gradients before `super().apply` does: every update has the norm 1."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        norm = tf.linalg.global_norm(list(grads))
        return super().apply([gradient / norm for gradient in grads], trainable_variables)


class WholeApply(keras.optimizers.SGD):
    """Does the whole update by itself."""

    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            variable.assign_sub(0.1 * tf.clip_by_value(gradient, -0.05, 0.05))
        self.iterations.assign_add(1)


class ClippedPairs(keras.optimizers.SGD):
    """Overrides `apply_gradients`."""

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        grads, variables = zip(*grads_and_vars, strict=True)
        clipped, _ = tf.clip_by_global_norm(grads, 0.05)
        return super().apply_gradients(zip(clipped, variables, strict=True))


def _gradients(model: keras.Model, data: Any) -> tuple[Any, list[Any]]:
    features, labels = data
    with tf.GradientTape() as tape:
        logits = model(features, training=True)
        loss = keras.ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))
    return loss, tape.gradient(loss, model.trainable_variables)


class TwiceInAStep(keras.Sequential):
    """Updates twice in one `train_step`, each time by the gradients of its own loss."""

    def train_step(self, data: Any) -> Any:
        for _ in range(2):
            loss, gradients = _gradients(self, data)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


class AfterStock(keras.Sequential):
    """Does Keras's step, and then an update of its own."""

    def train_step(self, data: Any) -> Any:
        logs = super().train_step(data)
        _, gradients = _gradients(self, data)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return logs


class OnceInAStep(keras.Sequential):
    """Updates by the gradients of its own loss."""

    def train_step(self, data: Any) -> Any:
        loss, gradients = _gradients(self, data)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


UPDATES: dict[str, tuple[type[keras.Sequential], Callable[[], keras.optimizers.Optimizer]]] = {
    "two in a step, loss scaling": (
        TwiceInAStep,
        lambda: keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.5, clipnorm=0.05), initial_scale=1.0
        ),
    ),
    "apply overridden": (keras.Sequential, lambda: NormalizedApply(0.1)),
    "apply replaced": (keras.Sequential, lambda: WholeApply(0.1)),
    "apply_gradients overridden": (keras.Sequential, lambda: ClippedPairs(0.5)),
    "two in a step": (TwiceInAStep, lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.05)),
    "after Keras's step": (AfterStock, lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.05)),
    "own step, accumulating": (OnceInAStep, lambda: keras.optimizers.SGD(0.5, gradient_accumulation_steps=3)),
}


@case("updates", each=UPDATES, stands_for_family=True)
def update(context: Context, name: str) -> dict[str, Any]:
    """Gradients are summed once for each update, whoever uses them first; uneven batches."""
    model_class, optimizer = UPDATES[name]

    def build() -> keras.Model:
        layers = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(4)]
        return tiny.fix_weights(model_class([keras.layers.Input((tiny.FEATURES,)), *layers]))

    return tiny.fitted(context, tiny.compiled(context, build, optimizer), 31)
