"""Datasets whose batches are known by the numbers of their rows, before any row is loaded.

A strategy cuts the numbers instead of the loaded batches, so that each replica's rows are loaded for it alone. The
order of an epoch follows from its number, which is a state that can be read and set.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.errors import DataError


@dataclass
class Epochs:
    """Which epoch a dataset shows.

    Attributes:
        next: The number of the epoch that the next training iteration shows; may be set.
    """

    next: int = 0

    def begin(self, advances: bool) -> int:
        """Returns the number of the epoch to show, and goes on to the next one if `advances`."""
        epoch = self.next
        self.next += advances
        return epoch


@dataclass(frozen=True)
class ByIndex:
    """The two halves of a dataset: row numbers, and what loads the rows.

    Attributes:
        indices_of: From the number of an epoch, scalar int64, to its batches: elements are what `load` takes, tensors
            whose first dimension is the rows of a global batch, int64 row numbers among them, and scalars that hold
            for the whole batch. Traced by TensorFlow.
        load: Returns the rows; a function of tensors, as for `tf.data.Dataset.map`.
        num_batches: Batches of every epoch.
        epochs: Which epoch comes next.
        advances: Whether an iteration is one of training, after which the next epoch comes.
    """

    indices_of: Callable[[tf.Tensor], tf.data.Dataset]
    load: Callable[..., Any]
    num_batches: int
    epochs: Epochs
    advances: bool = True

    def held(self) -> ByIndex:
        """Returns the same rows for an evaluation, which leaves the order of the training as it is."""
        return replace(self, advances=False)

    def indices(self) -> tf.data.Dataset:
        """Returns the row numbers of the global batches; each iteration shows the epoch whose turn it is."""

        def begin() -> np.int64:
            return np.int64(self.epochs.begin(self.advances))

        @tf.autograph.experimental.do_not_convert
        def of_next_epoch(_: tf.Tensor) -> tf.data.Dataset:
            epoch = tf.numpy_function(begin, [], tf.int64, stateful=True)
            return self.indices_of(tf.ensure_shape(epoch, []))

        indices = tf.data.Dataset.range(1).flat_map(of_next_epoch)
        return indices.apply(tf.data.experimental.assert_cardinality(self.num_batches))

    def load_element(self, element: Any) -> Any:
        """Returns what `load` makes of one element of `indices`, as `tf.data.Dataset.map` would call it."""
        return self.load(*element) if isinstance(element, tuple) else self.load(element)

    def dataset(self) -> tf.data.Dataset:
        """Returns the whole batches, for one device; `by_index_of` finds this object again by it."""
        load = tf.autograph.experimental.do_not_convert(self.load)
        loaded = self.indices().map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        loaded = loaded.prefetch(tf.data.AUTOTUNE)
        _made_of[loaded] = self
        return loaded


_made_of: weakref.WeakKeyDictionary[tf.data.Dataset, ByIndex] = weakref.WeakKeyDictionary()


def by_index_of(dataset: tf.data.Dataset) -> ByIndex | None:
    """Returns how `dataset` was made, if by index; what was mapped or batched further is no longer so."""
    return _made_of.get(dataset)


def check_at_least(least: int, **values: int) -> None:
    """Raises DataError with the name and value of the first of `values` that is below `least`."""
    for name, value in values.items():
        if value < least:
            raise DataError(f"{name} is {value}; it must be at least {least}.")
