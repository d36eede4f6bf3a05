"""The activations that a Hugging Face `config.json` names."""

from __future__ import annotations

import math
from typing import Any

import keras


@keras.ops.custom_gradient
def exact_gelu(x: Any) -> Any:
    """Returns x * P(X <= x) for a standard normal X; its gradient costs half as much as that through erf."""
    probability = 0.5 * (1.0 + keras.ops.erf(x * math.sqrt(0.5)))

    def gradient(upstream: Any) -> Any:
        density = keras.ops.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
        return upstream * (probability + x * density)

    return x * probability, gradient


def _tanh_gelu(x: Any) -> Any:
    return keras.ops.gelu(x, approximate=True)


# One function for each of `bert_config.HIDDEN_ACTS`. Of the four "gelu", only the plain one is exact.
ACTIVATIONS = {
    "gelu": exact_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "gelu_approximate": _tanh_gelu,
    "relu": keras.ops.relu,
}
