"""What a compressor keeps of each variable from step to step, in each replica; part of the state of a run."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist._internals.communication.compressor import Compressor
from tfdist.log import warn_once

# What of the gradients was not sent yet.
ERROR = "error"


class States:
    """Variables of each replica, by the Keras variable that they belong to."""

    def __init__(self) -> None:
        self._owners: dict[int, Any] = {}
        self._kept: dict[int, dict[str, Any]] = {}

    def make(self, strategy: Any, variables: Iterable[Any], compressor: Compressor) -> None:
        """Makes what is missing, outside of any step.

        Args:
            strategy: In whose scope the variables were made.
            variables: Keras variables that are trained.
            compressor: Only what it takes is kept.
        """
        for variable in variables:
            shape = tuple(variable.shape)
            if id(variable) in self._kept or variable.dtype != "float32" or not compressor.takes(shape):
                continue
            first = {ERROR: np.zeros(shape, np.float32), **compressor.first_state(shape)}
            with strategy.scope():
                kept = {name: _of_each_replica(value) for name, value in first.items()}
            key = id(variable)
            self._owners[key] = weakref.ref(variable, functools.partial(self._forget, key))
            self._kept[key] = kept

    def _forget(self, key: int, _: Any) -> None:
        self._owners.pop(key, None)
        self._kept.pop(key, None)

    def of(self, variable: Any) -> Mapping[str, Any] | None:
        """Returns what is kept of a Keras variable, by name; None if nothing is."""
        return self._kept.get(id(variable))

    def named(self, variables: Iterable[Any]) -> dict[str, Any]:
        """Returns all that is kept of Keras variables, by `number/name`: a model made again may have other paths."""
        return {
            f"{number}/{name}": kept
            for number, variable in enumerate(variables)
            for name, kept in (self.of(variable) or {}).items()
        }


def _of_each_replica(value: np.ndarray) -> Any:
    return tf.Variable(
        value,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.NONE,
    )


def read_kept(kept: Any, gather: Callable[[np.ndarray], list[np.ndarray]] | None) -> np.ndarray:
    """Returns the values of all replicas, of shape `(replicas, …)`; all processes call this together.

    Args:
        kept: What `States` keeps under a name.
        gather: Returns the vectors of all processes; None if there is one.
    """
    local = np.stack([part.numpy() for part in kept.values])
    if gather is None:
        return local
    return np.concatenate([one.reshape(-1, *local.shape[1:]) for one in gather(local.ravel())])


def write_kept(kept: Any, value: Any, process_index: int, num_replicas: int) -> None:
    """Sets the parts of this process; those of another number of replicas stay as they were at the beginning.

    Args:
        kept: What `States` keeps under a name.
        value: As `read_kept` returned it.
        process_index: Of this process.
        num_replicas: Over all processes.
    """
    expected = (num_replicas, *kept.values[0].shape)
    if value.shape != expected:
        warn_once(
            f"the state of gradient_compression was saved by {len(value)} replicas, and there are {num_replicas} now, "
            "or with another rank: it begins anew, at zero. What had not been sent of the gradients is lost."
        )
        return
    for index, part in enumerate(kept.values):
        part.assign(value[process_index * len(kept.values) + index])
