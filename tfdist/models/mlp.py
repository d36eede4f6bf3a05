"""The multi-layer perceptron of the MNIST examples."""

from __future__ import annotations

import keras


def build_mlp(*, num_features: int = 784, hidden_units: int = 256, num_classes: int = 10) -> keras.Model:
    """Builds a perceptron with one hidden layer, from (B, num_features) to float32 logits (B, num_classes)."""
    return keras.Sequential(
        [
            keras.Input((num_features,)),
            keras.layers.Dense(hidden_units, activation="relu", name="hidden"),
            keras.layers.Dense(num_classes, dtype="float32", name="logits"),
        ],
        name="mlp",
    )
