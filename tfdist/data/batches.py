"""Batches of like length from tokenized examples, in a new order each epoch, the same on every worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf


def make_dataset(
    features: Sequence[Mapping[str, np.ndarray]],
    labels: np.ndarray | Sequence[np.ndarray] | None = None,
    *,
    global_batch_size: int,
    max_length: int,
    pad_values: Mapping[str, int],
    shuffle: bool = False,
    seed: int = 0,
    first_epoch: int = 0,
    padding: Literal["bucket", "fixed"] = "bucket",
    bucket_step: int = 16,
    label_pad: int = -1,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Returns padded batches of tokenized examples.

    Every epoch has exactly `ceil(len(features) / global_batch_size)` batches and shows every example once; only the
    last batch may be smaller. Without `shuffle` the examples keep their order (so predictions line up with them).

    Args:
        features: For each example, arrays of shape (length,), int32, all of one length.
        labels: One class number for each example, shape (examples,); or, for token labels, one int32 array of shape
            (length,) for each example; or None.
        global_batch_size: Examples in one step, over all replicas and workers.
        max_length: Longest example that is allowed, in tokens.
        pad_values: For each feature, what fills the padding.
        shuffle: Show the examples in a new order each epoch, as `seed` and the epoch say.
        seed: Seed of the order; must be the same on every worker.
        first_epoch: Epoch number of the first iteration over the dataset; every further iteration is one more.
        padding: `bucket` forms batches of like lengths, each padded to its longest example rounded up to
            `bucket_step`; `fixed` pads everything to `max_length`.
        bucket_step: Lengths of buckets are multiples of this, in tokens.
        label_pad: Token labels with this value, and the padding of token labels, get sample weight 0.
        shard: (index, count): of each global batch, give only the rows of this worker. All workers see batches of
            the same padded length and the same number of batches; in a last, small batch a worker can have no row.

    Returns:
        A dataset of known cardinality. Elements are `x` (without labels), `(x, y)` (one label per example, y int32 of
        shape (batch,)) or `(x, y, sample_weight)` (token labels, both (batch, length), int32 and float32); x maps
        feature names to int32 of shape (batch, length). The static shape is (None, None), or (None, max_length)
        for `fixed`.

    Raises:
        DataError: If there is no example, lengths differ within an example, or one is longer than `max_length`.
    """
    raise NotImplementedError


def pad_batches(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Returns `dataset` with every batch filled up to `batch_size` rows that have sample weight 0.

    Elements `(x, y)` and `(x, y, sample_weight)` become `(x, y, sample_weight)`; elements `x` stay without weights.
    The filling repeats rows of the same batch.
    """
    raise NotImplementedError
