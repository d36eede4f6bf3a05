"""The variables that a step may change: read, written back, and given to one device alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

from tfdist._internals.contract import METER_NAME

# What a variable is to the training, in the order in which a report names them.
WEIGHT, STATE, SLOT, METRIC = "weight", "state", "optimizer", "metric"

# By path: arrays, or tensors in host memory, which are written back without a copy.
Values = dict[str, Any]


class Tracked:
    """One variable of the training.

    Args:
        path: How a report calls it.
        role: `WEIGHT` (trained), `STATE` (of a layer, or a seed), `SLOT` (of an optimizer) or `METRIC`.
        raw: What TensorFlow has of it: a variable, or one that has a component on each local device.
        keras_variable: The Keras variable that holds it, if any.
    """

    def __init__(self, path: str, role: str, raw: Any, keras_variable: Any = None) -> None:
        self.path, self.role, self.raw, self.keras_variable = path, role, raw, keras_variable
        self.components = tuple(raw.values) if isinstance(raw, tf.distribute.DistributedValues) else (raw,)
        # The components of a variable of this kind differ, and their sum is its value.
        self.is_sum = (
            len(self.components) > 0
            and getattr(raw, "synchronization", None) == tf.VariableSynchronization.ON_READ
            and isinstance(raw, tf.distribute.DistributedValues)
        )
        # Of a metric that says so, their mean is.
        self.is_mean = self.is_sum and role == METRIC and keras_variable.aggregation == "mean"

    def read(self) -> list[tf.Tensor]:
        """Returns the value of each component, or one value if all are copies; in host memory."""
        read = self.components if self.is_sum else self.components[:1]
        return [value_of(component) for component in read]

    def write(self, values: list[tf.Tensor]) -> None:
        """Sets what `read` returned."""
        for index, component in enumerate(self.components):
            component.assign(values[index if self.is_sum else 0])

    @property
    def copies_differ(self) -> bool:
        """Whether the components are copies, and are not alike but for the last digits."""
        if self.is_sum or len(self.components) < 2 or not self.components[0].dtype.is_floating:
            return False
        first, *others = (np.asarray(value_of(component)) for component in self.components)
        return any(not (np.array_equal(first, other) or _are_alike(first, other)) for other in others)


def value_of(variable: Any) -> tf.Tensor:
    """Returns the value of a variable in host memory. That is no copy on a CPU, where updates then write elsewhere."""
    with tf.device("CPU:0"):
        return tf.identity(variable.numpy() if hasattr(variable, "device_bytes") else variable.read_value())


def _are_alike(first: np.ndarray, other: np.ndarray) -> bool:
    found, expected = (
        [float(value.sum(dtype=np.float64)), float(np.abs(value).sum(dtype=np.float64))]
        for value in (first, other)
    )
    return np.allclose(found, expected, rtol=1e-9, atol=1e-30, equal_nan=True)


def optimizers_of(model: keras.Model) -> list[Any]:
    """Returns the optimizers that a model holds: that of `compile`, those in its attributes, and what these wrap."""
    found: dict[int, Any] = {}

    def look(value: Any, depth: int) -> None:
        if isinstance(value, BaseOptimizer):
            if id(value) not in found:
                found[id(value)] = value
                look(list(vars(value).values()), 2)  # Keras's MultiOptimizer has a list of them
        elif isinstance(value, Mapping) and depth:
            look(list(value.values()), depth - 1)
        elif isinstance(value, list | tuple | set) and depth:
            for part in value:
                look(part, depth - 1)

    look(list(vars(model).values()), 2)
    look(model.optimizer, 1)
    return list(found.values())


def variables_of(model: keras.Model) -> list[Tracked]:
    """Returns the Keras variables of a model, its metrics, its optimizers and the global seed."""
    metrics = [variable for metric in model.metrics for variable in metric.variables]
    in_metrics = {id(variable) for variable in metrics}
    trained = {id(variable) for variable in model.trainable_variables}
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    groups: list[tuple[Any, Any]] = [
        (
            lambda v: WEIGHT if id(v) in trained else STATE,
            (v for v in model.variables if id(v) not in in_metrics),
        ),
        (lambda v: SLOT, (v for optimizer in optimizers_of(model) for v in _of_optimizer(optimizer))),
        (lambda v: METRIC, metrics),
        (lambda v: STATE, [] if generator is None else [generator.state]),
    ]
    found: dict[int, Tracked] = {}
    paths: set[str] = set()
    for role, variables in groups:
        for variable in variables:
            if id(variable) in found or getattr(variable, "_value", None) is None:
                continue
            path = _unlike(paths, variable.path)
            found[id(variable)] = Tracked(path, role(variable), variable._value, variable)
    return list(found.values())


def _of_optimizer(optimizer: Any) -> list[Any]:
    # Nadam does not count its product among its variables.
    own = [value for value in vars(optimizer).values() if isinstance(value, keras.Variable)]
    return [*optimizer.variables, *own]


def with_others(known: list[Tracked], raw: Iterable[Any]) -> tuple[list[Tracked], list[Tracked]]:
    """Returns the variables, with those of TensorFlow in `raw` that are not among them; and apart from them meters."""
    seen = {id(component) for tracked in known for component in (tracked.raw, *tracked.components)}
    found, paths = list(known), {tracked.path for tracked in known}
    meters: list[Tracked] = []
    for variable in raw:
        if id(variable) not in seen and variable.dtype != tf.resource:
            seen.add(id(variable))
            group = meters if variable.name.startswith(METER_NAME) else found
            group.append(Tracked(_unlike(paths, variable.name), STATE, variable))
    return found, meters


def _unlike(paths: set[str], path: str) -> str:
    """Returns a path that is none of `paths`, and adds it to them."""
    while path in paths:
        path += "'"
    paths.add(path)
    return path
