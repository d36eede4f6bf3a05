"""What steps that do not count must leave as it was: variables, and the generators of Python and NumPy."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist._internals.check.variables import variables_of, with_others


@contextmanager
def kept_state(model: keras.Model, traced: Iterable[Any]) -> Iterator[None]:
    """Puts back at its end what steps of a model change.

    Args:
        model: The model.
        traced: TensorFlow's variables that its steps are known to read or write.
    """
    held = [one for one in tf.train.TrackableView(model).descendants() if isinstance(one, tf.Variable)]
    known, meters = with_others(variables_of(model), [*held, *traced])
    tracked = [*known, *meters]
    with same_random_state():
        values = [one.read() for one in tracked]
        try:
            yield
        finally:
            for one, value in zip(tracked, values, strict=True):
                one.write(value)


@contextmanager
def same_random_state() -> Iterator[Callable[[], None]]:
    """Puts the generators of Python and NumPy back, from which layers may take seeds while they are traced.

    Yields:
        What notes the present state as that to put back: a layer that was made has drawn its weights for good.
    """
    state: list[Any] = []

    def note() -> None:
        state[:] = random.getstate(), np.random.get_state()

    note()
    try:
        yield note
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
