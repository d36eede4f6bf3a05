"""Datasets whose batches are known by the numbers of their rows, before any row is loaded.

A strategy cuts the numbers instead of the loaded batches, so that each replica's rows are loaded for it alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfdist.errors import DataError


@dataclass(frozen=True)
class ByIndex:
    """The two halves of a dataset.

    Attributes:
        indices: Elements are what `load` takes: tensors whose first dimension is the rows of a global batch, int64 row
            numbers among them, and scalars that hold for the whole batch.
        load: Returns the rows; a function of tensors, as for `tf.data.Dataset.map`.
    """

    indices: tf.data.Dataset
    load: Callable[..., Any]

    def load_element(self, element: Any) -> Any:
        """Returns what `load` makes of one element of `indices`, as `tf.data.Dataset.map` would call it."""
        return self.load(*element) if isinstance(element, tuple) else self.load(element)

    def dataset(self) -> tf.data.Dataset:
        """Returns the whole batches, for one device; `halves` finds this object again by it."""
        loaded = self.indices.map(self.load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        loaded = loaded.prefetch(tf.data.AUTOTUNE)
        _halves[loaded] = self
        return loaded


_halves: weakref.WeakKeyDictionary[tf.data.Dataset, ByIndex] = weakref.WeakKeyDictionary()


def halves(dataset: tf.data.Dataset) -> ByIndex | None:
    """Returns how `dataset` was made, if by index; what was mapped or batched further is no longer so."""
    return _halves.get(dataset)


def check_at_least(least: int, **values: int) -> None:
    """Raises DataError with the name and value of the first of `values` that is below `least`."""
    for name, value in values.items():
        if value < least:
            raise DataError(f"{name} is {value}; it must be at least {least}.")
