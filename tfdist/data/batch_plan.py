"""Which examples form which batch: similar lengths together, a new order in each epoch, the same on all workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which examples form which batch in an epoch; it follows from the lengths, the seed and the epoch alone.

    `lengths` has shape (examples,), in tokens. Without `bucket_step` all batches are padded to `max_length`. Without
    `seed` the examples keep their order.
    """

    lengths: np.ndarray
    global_batch_size: int
    max_length: int
    bucket_step: int | None = None
    seed: int | None = None

    @property
    def num_batches(self) -> int:
        """Batches in every epoch."""
        return -(-len(self.lengths) // self.global_batch_size)

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the plan of `epoch`, all int64.

        Returns:
            The order of the examples, shape (examples,); for each batch its first place in this order and the place
            after its last, shape (batches, 2); and the padded length of each batch in tokens, shape (batches,).
        """
        step = self.bucket_step or self.max_length
        padded = np.minimum(-(-np.maximum(self.lengths, 1) // step) * step, self.max_length)
        order = np.arange(len(padded))
        sizes = np.full(self.num_batches, self.global_batch_size)
        sizes[-1] = len(padded) - sizes[:-1].sum()
        starts = np.cumsum(sizes) - sizes
        if self.seed is not None:
            generator = np.random.default_rng([self.seed, epoch])
            order = generator.permutation(len(padded))
            # Similar lengths come next to each other. The sort is stable, so that examples of one bucket stay shuffled.
            # The small batch takes its examples from a random place, since otherwise it would always have the longest
            # ones. It is shown last.
            order = order[np.argsort(padded[order], kind="stable")]
            small = generator.integers(self.num_batches)
            sizes = np.concatenate([sizes[:small], sizes[-1:], sizes[small:-1]])
            starts = np.cumsum(sizes) - sizes
            shown = generator.permutation(self.num_batches)
            shown = np.append(shown[shown != small], small)
            starts, sizes = starts[shown], sizes[shown]
        in_order = padded[order]
        lengths = np.array(
            [in_order[start : start + size].max() for start, size in zip(starts, sizes, strict=True)]
        )
        return order, np.stack([starts, starts + sizes], axis=1), lengths.astype(np.int64)
