"""Averages over the replicas, as compiled functions: of the weights at the end of a round, and of optimizers' slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist._internals.replica.local.counts import Counts
from tfdist._internals.replica.local.options import LocalSteps
from tfdist._internals.replica.local.outer import outer_update
from tfdist._internals.replica.local.tables import average


class Averaging:
    """Averages the weights of the replicas, each by its part of the rows of the round (McMahan et al. 2017).

    Args:
        strategy: Has the variables.
        options: What follows the average.
        counts: What the replicas have counted.
        weights: The Keras variables that are averaged.
        momentum_of: Returns the outer momentum of a weight, where there is an outer update.
    """

    def __init__(
        self,
        strategy: Any,
        options: LocalSteps,
        counts: Counts,
        weights: Sequence[Any],
        momentum_of: Callable[[Any], Any],
    ) -> None:
        self.weights = list(weights)
        self._strategy, self._options, self._counts = strategy, options, counts
        moved = self.weights if options.has_momentum else []
        with strategy.scope():
            self._begins = [zeros_like(weight, "round_begin") for weight in moved]
            self._momenta = [momentum_of(weight) for weight in moved]
        self.begin = tf.function(lambda: strategy.run(self._begin), autograph=False)
        self._end_function = tf.function(lambda: strategy.run(self._end), autograph=False)

    def end(self) -> tuple[tf.Tensor, ...]:
        """Averages, and makes the outer update.

        Returns:
            Two scalar float32 tensors, for which nothing waits: the drift, which is how far the weights of this
            process's first replica were from the average, as a part of its norm; and how many bytes each replica gave.
        """
        return tuple(map(self._first, self._end_function()))

    def _first(self, of_replicas: Any) -> tf.Tensor:
        return self._strategy.experimental_local_results(of_replicas)[0]

    def _begin(self) -> None:
        self._counts.clear()
        for begin, weight in zip(self._begins, self.weights, strict=False):
            begin._value.assign(tf.convert_to_tensor(weight._value))

    def _end(self) -> tuple[tf.Tensor, tf.Tensor]:
        part, rate = self._counts.read()
        own = [_exact(weight) for weight in self.weights]
        averages, num_bytes = average(own, part)
        drift = tf.math.divide_no_nan(
            _norm([a - b for a, b in zip(own, averages, strict=True)]), _norm(averages)
        )
        if not self._options.has_momentum:
            _assign(self.weights, averages)
            return drift, num_bytes
        for weight, begin, mean, momentum in zip(
            self.weights, self._begins, averages, self._momenta, strict=True
        ):
            learning_rate = tf.cast(rate, mean.dtype)
            new, speed = outer_update(self._options, _exact(begin), mean, _exact(momentum), learning_rate)
            _assign([weight, momentum], [new, speed])
        return drift, num_bytes


def mean_of(strategy: Any, variables: Sequence[Any]) -> Callable[[], Any]:
    """Returns a function that gives every replica the mean of the replicas' values of these Keras variables."""

    def on_replica() -> None:
        part = tf.constant(1.0 / strategy.num_replicas_in_sync, tf.float64)
        means, _ = average([_exact(variable) for variable in variables], part)
        _assign(variables, means)

    return tf.function(lambda: strategy.run(on_replica), autograph=False)


def zeros_like(weight: Any, name: str) -> Any:
    """Returns a Keras variable of the shape of a weight, and of a dtype in which sums are exact enough."""
    dtype = "float64" if weight.dtype == "float64" else "float32"
    path = f"{weight.path.replace('/', '_')}_{name}"
    return keras.Variable("zeros", shape=weight.shape, dtype=dtype, trainable=False, name=path)


def _exact(variable: Any) -> tf.Tensor:
    """Returns this replica's value in a type in which sums of it are exact enough."""
    value = tf.convert_to_tensor(variable._value)
    return value if value.dtype == tf.float64 else tf.cast(value, tf.float32)


def _norm(values: Sequence[tf.Tensor]) -> tf.Tensor:
    squares = [tf.reduce_sum(tf.square(tf.cast(value, tf.float32))) for value in values]
    return tf.sqrt(tf.add_n([tf.constant(0.0), *squares]))


def _assign(variables: Sequence[Any], values: Sequence[tf.Tensor]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable._value.assign(tf.cast(value, variable.dtype))
