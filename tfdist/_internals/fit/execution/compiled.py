"""Compiles the functions that Keras calls for each execution, each as one by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled(model: Any, function: Callable[..., Any]) -> Any:
    """Returns a function of a model as TensorFlow compiles it, or as it is if the model runs eagerly."""
    if model.run_eagerly:
        return function
    # TensorFlow counts the traces of all methods with the same code as if they were of one function. It would warn a
    # process that trains several models that one of them is traced again and again. It counts a partial by itself.
    return tf.function(functools.partial(function), reduce_retracing=True, autograph=False)
