"""The reference draws the random numbers and batch statistics that the rows have on their replicas.

Each replica draws masks and noise for its own rows, from a seed of its own. One device that has all rows must use the
same numbers, or layers that draw could not be compared. Batch normalization that is not synchronized takes the
statistics of each replica's rows, and that is what the user asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from tfdist._internals.contract import Step, seed_of_part


class RowsOfReplicas(Step):
    """Draws for all rows what each replica draws for its own.

    Args:
        sizes: The rows of each replica; empty if one program has all rows.
        padded_size: The rows that each replica computes on, if there is padding; otherwise 0.
        as_one_device: Whether the step draws for each row what one device draws.

    Attributes:
        unlike: How many draws could not be those of the step.
    """

    def __init__(self, sizes: Sequence[int], padded_size: int, as_one_device: bool) -> None:
        num_rows = tf.constant(sum(sizes), tf.int64)
        super().__init__(num_rows, num_rows)
        # As the step that is done once more, which has no sizes on a mesh.
        self.compiles_parts, self.masks_by_row = bool(sizes), bool(sizes) or as_one_device
        self.by_row = bool(sizes) and not as_one_device
        self.sizes = tuple(sizes)
        self.unlike = 0
        self._computed = [padded_size or size for size in sizes]
        self._as_one_device = as_one_device
        self._draws_for_all = False
        self._replica: int | None = None
        self._base: Any = None

    def seed(self, advance: Callable[[], Any]) -> Any:
        if self._as_one_device or self._draws_for_all:
            return advance()
        if not self.sizes:
            # Each device of a mesh draws from what DTensor makes of the seed.
            self.unlike += 1
            return advance()
        if self._replica is None:
            self.unlike += 1
            return seed_of_part(advance(), 0)
        if self._base is None:
            self._base = advance()
        return seed_of_part(self._base, self._replica)

    @contextmanager
    def drawing_for_all(self) -> Iterator[None]:
        with self._during(_draws_for_all=True):
            yield

    def draw(self, shape: Any, draw: Callable[[Any], tf.Tensor]) -> tf.Tensor:
        sizes = [tf.get_static_value(size) for size in (tf.unstack(shape) if tf.is_tensor(shape) else shape)]
        rows = sum(self.sizes)
        times, rest = divmod(sizes[0], rows) if sizes and sizes[0] else (0, 0)
        if not times or rest:
            return self._for_replica(0, lambda: draw(shape), count=True)
        # A layer may have folded other dimensions into the rows.
        parts = [
            self._for_replica(replica, functools.partial(draw, [size * times, *sizes[1:]]))
            for replica, size in enumerate(self._computed)
        ]
        self._base = None
        return tf.concat([part[: size * times] for part, size in zip(parts, self.sizes, strict=True)], 0)

    def _for_replica(self, replica: int, draw: Callable[[], tf.Tensor], count: bool = False) -> tf.Tensor:
        self.unlike += count
        before, self._replica = self._replica, replica
        try:
            return draw()
        finally:
            self._replica = before
            if count:
                self._base = None
