"""What a canary is: a tiny run that is right with a patch and wrong, in one stated way, without it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist import create_strategy
from tfdist._internals.patches import list_patches
from tfdist.devices import make_logical_cpus
from tfdist.numerics import RELATIVE_TOLERANCE, relative_difference
from tfdist.parity.inspection import count_collectives
from tfdist.strategies.mirrored import Mirrored

make_logical_cpus(4)  # their number is fixed at TensorFlow's first operation

BATCH = 8
PATCHES = {patch.target: patch for patch in list_patches()}


@dataclass(frozen=True)
class Canary:
    """One patch and what stock does wrong without it.

    Attributes:
        check: Passes if all is right.
        stock: A pattern of what it raises under stock: the wrong number, or the error's own text.
        subject: The module that it is written in.
    """

    check: Callable[[], None]
    stock: str
    subject: str


CANARIES: dict[str, Canary] = {}


def canary(stock: Mapping[str, str]) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers a function as the canary of the patches whose targets end so: ending -> what stock does wrong."""

    def register(function: Callable[[], None]) -> Callable[[], None]:
        for ending, pattern in stock.items():
            (target,) = [name for name in PATCHES if name.endswith(ending)]
            assert target not in CANARIES, f"{target} has two canaries"
            CANARIES[target] = Canary(function, pattern, getattr(function, "func", function).__module__)
        return function

    return register


def what_goes_wrong(check: Callable[[], None]) -> str | None:
    """Returns type and text of what a check raises, None where it passes."""
    try:
        check()
    # `pytest.raises` that sees no error fails by an exception of its own.
    except (Exception, pytest.fail.Exception) as error:
        return f"{type(error).__name__}: {error}"
    return None


class StaticMirrored(Mirrored):
    """Batches padded to one shape, as for a TPU."""

    pads_batches = True


class FedMirrored(Mirrored):
    """Feeds its devices as if they were accelerators."""

    feeds_devices = True


@functools.cache
def strategy(
    static: bool = False, devices: int = 2, random_by_row: bool = False, mesh: bool = False, fed: bool = False
) -> tf.distribute.Strategy:
    """Returns two mirrored devices, or what is asked for, with all patches in force."""
    if mesh:
        return create_strategy("mesh", mesh={"batch": 2})
    pair = create_strategy("mirrored", devices=2, random_by_row=random_by_row)
    return StaticMirrored(devices) if static else FedMirrored(devices) if fed else pair


def rows(count: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Returns features and classes; 25 leave a single row for the last batch, so that a replica has none."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((count, 4)).astype("float32")
    features[::3] *= 3.0
    return features, generator.integers(0, 3, count)


def crossentropy() -> keras.losses.Loss:
    """Sparse categorical cross-entropy on logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(*middle: keras.layers.Layer) -> keras.Model:
    """Four features to three logits."""
    return keras.Sequential([keras.Input((4,)), *middle, keras.layers.Dense(3)])


def compiled(build: Callable[[], keras.Model] = dense, optimizer: Any = None, **options: Any) -> keras.Model:
    """Builds from a fixed seed and compiles."""
    keras.utils.set_random_seed(1)
    model = build()
    model.compile(
        optimizer() if optimizer else keras.optimizers.SGD(0.5), **{"loss": crossentropy()} | options
    )
    return model


def result(scope: Any, make: Callable[[], keras.Model], data: Any) -> dict[str, np.ndarray]:
    """Fits in a scope; returns weights and history by name."""
    with scope:
        model = make()
    inputs, labels = data
    history = model.fit(inputs, labels, batch_size=BATCH, shuffle=False, verbose=0).history
    weights = {f"weight {index}": value for index, value in enumerate(model.get_weights())}
    return weights | {name: np.asarray(values) for name, values in history.items()}


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Names the array that is furthest from one device, if any is too far."""
    differences = {name: relative_difference(found[name], expected[name], 1.0) for name in expected}
    worst = max(differences, key=lambda name: differences[name])
    assert differences[worst] <= RELATIVE_TOLERANCE, f"{worst} differs by {differences[worst]:.2g}"


def assert_one_device(
    make: Callable[[], keras.Model],
    data: Any = None,
    on: tf.distribute.Strategy | None = None,
    **options: Any,
) -> None:
    """Fits under a strategy and without one."""
    data = rows() if data is None else data
    found = result((on or strategy(**options)).scope(), make, data)
    assert_equal(found, result(contextlib.nullcontext(), make, data))


def collectives(**options: Any) -> float:
    """Returns the collectives of one device in a training step."""
    with strategy().scope():
        model = compiled(**options)
    model.fit(*rows(16), batch_size=BATCH, verbose=0)
    return count_collectives(model) / 2  # in the graph, one on each of two devices
