"""Gradients that are used before the optimizer has them: a sharpness-aware step (SAM)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

import tfdist
from tfdist.parity import tiny
from tfdist.parity.context import Context
from tfdist.parity.registry import case


class SharpnessAware(keras.Sequential):
    """Takes the gradient where the loss is highest nearby."""

    def gradients(self, features: Any, labels: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            predictions = self(features, training=True)
            loss = self.compute_loss(features, labels, predictions)
        return loss, tape.gradient(loss, self.trainable_variables)

    def train_step(self, data: Any) -> dict[str, Any]:
        features, labels = data
        loss, gradients = self.gradients(features, labels)
        gradients = tfdist.sum_gradients(gradients)
        scale = 0.05 / (tf.linalg.global_norm(gradients) + 1e-12)
        climb = [gradient * scale for gradient in gradients]
        for variable, change in zip(self.trainable_variables, climb, strict=True):
            variable.assign_add(change)
        # These the optimizer sums by itself, since they are used for nothing else.
        _, gradients = self.gradients(features, labels)
        for variable, change in zip(self.trainable_variables, climb, strict=True):
            variable.assign_sub(change)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


@case("own steps", on=("mirrored_2", "workers_2x1", "mesh_2x2"))
def sharpness_aware(context: Context) -> dict[str, Any]:
    """A sharpness-aware step, uneven batches."""

    def build() -> keras.Model:
        layers = [keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(tiny.CLASSES)]
        return tiny.fix_weights(SharpnessAware([keras.layers.Input((tiny.FEATURES,)), *layers]))

    return tiny.fitted(context, tiny.compiled(context, build), 31)
