"""Datasets whose batches are known by the numbers of their rows, before any row is loaded.

A strategy cuts the numbers and not the loaded batches, so that only the rows of a replica are loaded for it. The order
of an epoch follows from the number of the epoch, which can be read and set.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfdist.errors import DataError


@dataclass
class Epochs:
    """Which epoch a dataset shows.

    Attributes:
        next: The number of the epoch that the next training iteration shows. It may be set.
    """

    next: int = 0

    def begin(self, advances: bool) -> int:
        """Returns the number of the epoch to show; if `advances`, the next call returns the next number."""
        epoch = self.next
        self.next += advances
        return epoch


class Elsewhere(Protocol):
    """Prepares batches in other processes than this one."""

    def prepared(self, source: ByIndex, function: Callable[[Any], Any]) -> tf.data.Dataset:
        """Returns what `ByIndex.prepared` returns."""
        ...


@dataclass(frozen=True)
class ByIndex:
    """The two halves of a dataset: row numbers, and a function that loads the rows.

    Attributes:
        indices_of: A function from the number of an epoch, scalar int64, to a dataset of its batches. An element is
            what `load` takes: tensors whose first dimension is the rows of a global batch, int64 row numbers among
            them, and scalars that hold for the whole batch. TensorFlow traces this function.
        load: A function of tensors that returns the rows, as for `tf.data.Dataset.map`.
        num_batches: Batches of every epoch.
        epochs: Which epoch comes next.
        advances: Whether the next epoch comes after an iteration, as it does in training.
        known: Rows that are there without loading any, nested as what `load` returns: processes compare them.
        elsewhere: What prepares the batches; None for the threads of this process.
    """

    indices_of: Callable[[tf.Tensor], tf.data.Dataset]
    load: Callable[..., Any]
    num_batches: int
    epochs: Epochs
    advances: bool = True
    known: Any = None
    elsewhere: Elsewhere | None = None

    def held(self) -> ByIndex:
        """Returns the same dataset for an evaluation, whose iterations do not advance the epoch."""
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
        """Returns the rows of one element of `indices`; calls `load` as `tf.data.Dataset.map` would."""
        return self.load(*element) if isinstance(element, tuple) else self.load(element)

    def prepared(self, function: Callable[[Any], Any]) -> tf.data.Dataset:
        """Returns `function` of every element of `indices`, in order; each iteration shows the epoch whose turn it is.

        Args:
            function: From an element, as one argument, to nested tensors. It calls `load_element`.
        """
        if self.elsewhere is not None:
            return self.elsewhere.prepared(self, function)
        indices = self.indices()
        is_tuple = isinstance(indices.element_spec, tuple)

        @tf.autograph.experimental.do_not_convert
        def of_element(*element: Any) -> Any:
            return function(element if is_tuple else element[0])

        # Loading rows by their numbers is worth several threads.
        return indices.map(of_element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def dataset(self) -> tf.data.Dataset:
        """Returns a dataset of whole batches, for one device; `by_index_of` of it returns this object."""
        loaded = self.prepared(self.load_element).prefetch(tf.data.AUTOTUNE)
        _made_of[loaded] = self
        return loaded


_made_of: weakref.WeakKeyDictionary[tf.data.Dataset, ByIndex] = weakref.WeakKeyDictionary()


def by_index_of(dataset: tf.data.Dataset) -> ByIndex | None:
    """Returns how `dataset` was made, None if it was not made by index, or was mapped or batched since."""
    return _made_of.get(dataset)


def check_at_least(least: int, **values: int) -> None:
    """Checks numbers.

    Raises:
        DataError: One of `values` is below `least`; the message has its name and value.
    """
    for name, value in values.items():
        if value < least:
            raise DataError(f"{name} is {value}; it must be at least {least}.")
