"""What a fault is made of: a small model, its rows, and one thing that is wrong over several replicas."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

FEATURES, CLASSES, ROWS = 6, 3, 24


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Attributes:
        name: What is wrong.
        build: Returns a compiled model; called in the strategy's scope.
    """

    name: str
    build: Callable[[], keras.Model]


# What puts the machine right again after a fault.
restore: list[Callable[[], None]] = []

_faults: dict[str, Fault] = {}


def fault(name: str) -> Callable[[Callable[[], keras.Model]], Callable[[], keras.Model]]:
    """Registers a function that builds a model with a fault."""

    def register(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
        _faults[name] = Fault(name, build)
        return build

    return register


def all_faults() -> list[Fault]:
    """Returns every fault."""
    for kind in ("losses", "steps", "layers", "states", "machines"):
        importlib.import_module(f"benchmarks.faults.{kind}")
    return list(_faults.values())


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Returns features of shape (24, 6), float32, and classes of shape (24,), int64; the halves differ."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(ROWS, FEATURES)).astype("float32")
    features[::3] *= 3.0
    return features, generator.integers(0, CLASSES, ROWS)


def layers(*middle: Callable[[], keras.layers.Layer]) -> list[keras.layers.Layer]:
    """Returns a small network with other layers in its middle."""
    return [
        keras.Input((FEATURES,)),
        keras.layers.Dense(8, activation="tanh"),
        *(layer() for layer in middle),
        keras.layers.Dense(CLASSES),
    ]


def compiled(loss: Any = None, *middle: Callable[[], keras.layers.Layer], **options: Any) -> keras.Model:
    """Returns a compiled network; the loss is cross-entropy unless another is given."""
    model = keras.Sequential(layers(*middle))
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(options.pop("optimizer", "adam"), loss, **options)
    return model
