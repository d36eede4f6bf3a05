"""Averages over the replicas, as compiled functions: of the weights at the end of a round, and of optimizers' slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist._internals.contract import Step
from tfdist._internals.replica.exchange import all_reduce
from tfdist._internals.replica.local.options import LocalSteps
from tfdist._internals.replica.local.outer import outer_update


class Averaging:
    """Averages the weights of the replicas, each by its part of the rows of the round (McMahan et al. 2017).

    Args:
        strategy: Has the variables.
        options: What follows the average.
        weights: The Keras variables that are averaged.
        momenta: Path of a weight -> its outer momentum, for those that have one already. New ones are added.
        learning_rate: Returns the inner learning rate; None where there is none to ask for.
    """

    def __init__(
        self,
        strategy: Any,
        options: LocalSteps,
        weights: Sequence[Any],
        momenta: dict[str, Any],
        learning_rate: Callable[[], Any] | None,
    ) -> None:
        self.weights = list(weights)
        self._strategy, self._options = strategy, options
        self._learning_rate = learning_rate if options.outer_optimizer == "slow_momentum" else None
        with strategy.scope():
            # Each replica counts for itself: its rows, those of all replicas, its steps, and its learning rates.
            self._counts = tf.Variable(tf.zeros([4], tf.float64), trainable=False)
            self._begins = [_like(weight, "round_begin") for weight in self._in_outer_update()]
            self._momenta: list[Any] = []
            for weight in self._in_outer_update():
                path = weight.path
                while path in momenta and momenta[path] in self._momenta:  # two layers were given one name
                    path += "'"
                self._momenta.append(momenta.setdefault(path, None) or _like(weight, "outer_momentum"))
                momenta[path] = self._momenta[-1]
        self.begin = tf.function(lambda: strategy.run(self._begin), autograph=False)
        self._end_function = tf.function(lambda: strategy.run(self._end), autograph=False)

    def _in_outer_update(self) -> list[Any]:
        return self.weights if self._options.has_momentum else []

    def count(self, step: Step) -> None:
        """Counts a step of this replica, before it is made."""
        rate = 0.0 if self._learning_rate is None else self._learning_rate()
        counted = (step.num_valid, step.num_global, 1, rate)
        self._counts.assign_add(tf.stack([tf.cast(number, tf.float64) for number in counted]))

    def end(self) -> tf.Tensor:
        """Averages, and makes the outer update; returns the drift, a scalar float32 tensor for which nothing waits.

        The drift is how far the weights of this process's first replica were from the average, as a part of its norm.
        """
        return self._strategy.experimental_local_results(self._end_function())[0]

    def _begin(self) -> None:
        self._counts.assign(tf.zeros([4], tf.float64))
        for begin, weight in zip(self._begins, self._in_outer_update(), strict=True):
            begin._value.assign(tf.convert_to_tensor(weight._value))

    def _end(self) -> tf.Tensor:
        rows, all_rows, steps, rates = tf.unstack(self._counts)
        own = [_exact(weight) for weight in self.weights]
        part = rows / all_rows
        averages = all_reduce([value * tf.cast(part, value.dtype) for value in own])
        apart = tf.linalg.global_norm([_single(a - b) for a, b in zip(own, averages, strict=True)])
        drift = tf.math.divide_no_nan(apart, tf.linalg.global_norm([_single(one) for one in averages]))
        if not self._options.has_momentum:
            _assign(self.weights, averages)
            return drift
        rate = rates / steps
        for weight, begin, average, momentum in zip(
            self.weights, self._begins, averages, self._momenta, strict=True
        ):
            learning_rate = tf.cast(rate, average.dtype)
            new, speed = outer_update(self._options, _exact(begin), average, _exact(momentum), learning_rate)
            _assign([weight, momentum], [new, speed])
        return drift


def mean_of(strategy: Any, variables: Sequence[Any]) -> Callable[[], Any]:
    """Returns a function that gives every replica the mean of the replicas' values of these Keras variables."""

    def on_replica() -> None:
        part = 1.0 / strategy.num_replicas_in_sync
        _assign(variables, all_reduce([_exact(variable) * part for variable in variables]))

    return tf.function(lambda: strategy.run(on_replica), autograph=False)


def _like(weight: Any, name: str) -> Any:
    dtype = "float64" if weight.dtype == "float64" else "float32"
    path = f"{weight.path.replace('/', '_')}_{name}"
    return keras.Variable("zeros", shape=weight.shape, dtype=dtype, trainable=False, name=path)


def _exact(variable: Any) -> tf.Tensor:
    """Returns this replica's value in a type in which sums of it are exact enough."""
    value = tf.convert_to_tensor(variable._value)
    return value if value.dtype == tf.float64 else tf.cast(value, tf.float32)


def _single(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(value, tf.float32)


def _assign(variables: Sequence[Any], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable._value.assign(tf.cast(value, variable.dtype))
