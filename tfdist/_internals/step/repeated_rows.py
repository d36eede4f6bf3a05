"""Whether an optimizer is given a row that was looked up several times once, with the sum of its slices.

The gradient of an embedding has one slice for each look-up. Keras on TensorFlow squares these one by one, so that Adam,
RMSprop, Adagrad and clipping by norm take a repeated row otherwise than Keras on JAX and PyTorch do, which have the
dense gradient. This is so on one device too, and `repeated_rows="sum"` gives the dense result everywhere.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfdist._internals.step.compiled_update import is_compiled
from tfdist._internals.step.update_rows import with_summed_rows
from tfdist.errors import ConfigError, did_you_mean

_CHOICES = ("keep", "sum")
_summing: weakref.WeakSet[tf.distribute.Strategy] = weakref.WeakSet()


def checked(value: Any) -> str:
    """Returns the value of the option `repeated_rows`.

    Raises:
        ConfigError: It is none.
    """
    if value not in _CHOICES:
        raise ConfigError(
            f"repeated_rows={value!r} is not possible; it is 'keep', as plain Keras on TensorFlow does, or 'sum', as "
            f"Keras on JAX and PyTorch does.{did_you_mean(str(value), _CHOICES)}"
        )
    return str(value)


def set_repeated_rows(strategy: tf.distribute.Strategy, choice: str) -> None:
    """Sets what the optimizers that were made under a strategy are given, from the next trace on."""
    (_summing.add if choice == "sum" else _summing.discard)(strategy)


def repeated_rows_of(strategy: tf.distribute.Strategy) -> str:
    """Returns what was set for a strategy."""
    return "sum" if strategy in _summing else "keep"


def as_chosen(optimizer: Any, gradients: Sequence[Any]) -> list[Any]:
    """Returns the gradients of an update, with the slices of each row summed if that was chosen."""
    if optimizer._distribution_strategy not in _summing:
        return list(gradients)
    # A compiled update can do with the rows alone.
    summed = with_summed_rows if is_compiled(optimizer) else tf.convert_to_tensor
    return [summed(one) if isinstance(one, tf.IndexedSlices) else one for one in gradients]
