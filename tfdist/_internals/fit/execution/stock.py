"""Keras's own functions for one replica, in which a step waits for its batch only where the data may end before it.

The operations of a step that use nothing of the batch, as those that count, run while it is taken. If there is none
any more, they have counted a step that was none. Where they wait, a step of two milliseconds takes a tenth longer.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf

_making = threading.local()


def waits_for_batches() -> bool:
    """Returns whether the function that this thread makes now is one whose steps wait for their batch."""
    return getattr(_making, "waits", False)


def stock_function(stock: Callable[..., Any], model: Any, step_function: Any) -> Callable[[Any], Any]:
    """Returns what Keras calls with an iterator for every execution of one or several steps.

    Args:
        stock: Keras's method that makes such a function.
        model: The model.
        step_function: Its `train_step` or `test_step`.
    """
    at_once = stock(model, step_function)
    _making.waits = True
    try:
        waiting = stock(model, step_function)
    finally:
        _making.waits = False
    # Iterator -> the batches that are certainly left in it.
    left: weakref.WeakKeyDictionary[Any, float] = weakref.WeakKeyDictionary()

    def function(iterator: Any) -> Any:
        if isinstance(iterator, tf.distribute.DistributedIterator):
            return waiting(iterator)
        if isinstance(iterator, tf.data.Iterator):
            if iterator not in left:
                left[iterator] = _certain(iterator)
            if left[iterator] <= 0:
                return waiting(iterator)
            left[iterator] -= model.steps_per_execution
        return at_once(iterator)

    return function


def _certain(iterator: Any) -> float:
    dataset = getattr(iterator, "_dataset", None)
    size = tf.data.UNKNOWN_CARDINALITY if dataset is None else int(dataset.cardinality())
    return math.inf if size == tf.data.INFINITE_CARDINALITY else size
