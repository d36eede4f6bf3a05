"""Iterators from which a compiled function takes batches by itself, and how many are left in each."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from keras import tree

Again = Callable[[Any], Any]

# Iterators from which a compiled function takes batches by itself -> how many batches are left, None if unknown.
_remaining: weakref.WeakKeyDictionary[Any, int | None] = weakref.WeakKeyDictionary()
# Such an iterator -> what makes another one like it, over one batch that was taken from it.
_again: weakref.WeakKeyDictionary[Any, Again] = weakref.WeakKeyDictionary()


def in_graph(iterator: Any, num_batches: int | None = None, again: Again | None = None) -> Any:
    """Notes that a compiled function may take batches from `iterator` by itself; returns the iterator.

    Args:
        iterator: An iterator of `tf.distribute` over placed batches.
        num_batches: How many batches there are, or None. If it is known, several steps run in one call, since no
            step has to ask whether data are left.
        again: Returns an iterator of the same type over one placed batch, so that a compiled function takes both.
    """
    _remaining[iterator] = num_batches
    if again is not None:
        _again[iterator] = again
    return iterator


def takes_batches_itself(iterator: Any) -> bool:
    """Returns whether a compiled function takes batches from `iterator` by itself."""
    return iterator in _remaining


def of_one(iterator: Any, batch: Any) -> Any:
    """Returns an iterator over a batch alone, for the function that takes batches from `iterator`, if there is one."""
    if iterator not in _again:
        return iter([batch])
    single = _again[iterator](batch)
    _remaining[single] = None if _remaining[iterator] is None else 1
    return single


def batches_left(iterator: Any) -> int | None:
    """Returns how many batches are left in such an iterator, None if unknown."""
    return _remaining[iterator]


def note_taken(iterator: Any, count: int = 1) -> None:
    """Notes that batches are taken from an iterator, if it is one from which a compiled function takes them."""
    if takes_batches_itself(iterator) and (left := _remaining[iterator]) is not None:
        _remaining[iterator] = left - count


def has_fixed_rows(iterator: Any) -> bool:
    """Returns whether a compiled function for batches of `iterator` takes one number of rows only."""
    if iterator not in _remaining:
        return True
    specs = [getattr(spec, "_value_specs", (spec,))[0] for spec in tree.flatten(iterator.element_spec)]
    return any(
        spec.shape.rank != 0 and spec.shape[0] is not None for spec in specs if spec.shape.rank is not None
    )
