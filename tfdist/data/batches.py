"""Padded batches of tokenized examples, which TensorFlow assembles from one flat array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfdist.data.batch_plan import BatchPlan
from tfdist.data.by_index import ByIndex, Epochs, check_at_least
from tfdist.errors import DataError


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
) -> tf.data.Dataset:
    """Returns padded batches of tokenized examples.

    Every epoch has `ceil(len(features) / global_batch_size)` batches and shows every example once; only the last
    batch may be smaller. Without `shuffle` the examples keep their order. Under several replicas each batch is cut by
    the examples' numbers, and each piece is assembled by itself.

    Args:
        features: For each example, arrays of shape (length,), int32, all of one length.
        labels: Class numbers, shape (examples,); or token labels, an int32 array (length,) for each example; or None.
        global_batch_size: Examples in one step, over all replicas and workers.
        max_length: Longest example that is allowed, in tokens.
        pad_values: For each feature, what fills the padding.
        shuffle: Show the examples in a new order each epoch, as `seed` and the epoch say.
        seed: Seed of the order; must be the same on every worker.
        first_epoch: Number of the epoch that the first iteration shows. Each further iteration shows the next epoch,
            except that `evaluate` and `predict` under a tfdist strategy leave the order as it is.
        padding: `bucket` pads each batch to its longest example rounded up to `bucket_step`, and with `shuffle` forms
            batches of like lengths; `fixed` pads everything to `max_length`.
        bucket_step: Lengths of buckets are multiples of this, in tokens.
        label_pad: Token labels with this value, and the padding of token labels, become class 0 with sample weight 0.

    Returns:
        A dataset of known cardinality. Elements are `x` (without labels), `(x, y)` (one label per example, y
        int32 of shape (batch,)) or `(x, y, sample_weight)` (token labels, both (batch, length), int32 and
        float32); x maps feature names to int32 of shape (batch, length). The static shape is (None, None), or
        (None, max_length) for `fixed`.

    Raises:
        DataError: If there is no example, lengths differ within an example, one is longer than `max_length`,
            or an argument is out of range.
    """
    check_at_least(1, global_batch_size=global_batch_size, max_length=max_length, bucket_step=bucket_step)
    check_at_least(0, seed=seed, first_epoch=first_epoch)
    _check_padding(padding)
    store = _flatten(features, labels, max_length, pad_values, label_pad)
    plan = BatchPlan(
        lengths=np.diff(store.row_splits.numpy()),
        global_batch_size=global_batch_size,
        max_length=max_length,
        bucket_step=bucket_step if padding == "bucket" else None,
        seed=seed if shuffle else None,
    )
    length_dim = None if padding == "bucket" else max_length
    load = lambda rows, length: store.gather(rows, length, length_dim)  # noqa: E731
    epochs, known = Epochs(first_epoch), store.known()
    return ByIndex(lambda epoch: _indices(plan, epoch), load, plan.num_batches, epochs, known=known).dataset()


def _check_padding(padding: str) -> None:
    if padding not in ("bucket", "fixed"):
        raise DataError(f"padding is {padding!r}; it must be 'bucket' or 'fixed'.")


def _indices(plan: BatchPlan, epoch: tf.Tensor) -> tf.data.Dataset:
    """Returns the batches of an epoch: the numbers of the examples, and the padded length in tokens."""
    # Python draws the order, once an epoch. TensorFlow makes the batches below.
    order, bounds, lengths = tf.numpy_function(plan.epoch, [epoch], [tf.int64, tf.int64, tf.int64])
    order = tf.ensure_shape(order, [len(plan.lengths)])
    bounds = tf.ensure_shape(bounds, [plan.num_batches, 2])
    lengths = tf.ensure_shape(lengths, [plan.num_batches])
    return tf.data.Dataset.from_tensor_slices((bounds, lengths)).map(
        lambda bound, length: (order[bound[0] : bound[1]], length)
    )


@dataclass(frozen=True)
class _Store:
    """All examples one after the other, so that a batch is one gather.

    `values` has shape (tokens, columns), int32: the features named in `names`, and then the token labels if there are
    any. Example i is `values[row_splits[i]:row_splits[i + 1]]`. `pads` has shape (columns,). `labels` has shape
    (examples,), or is None.
    """

    names: list[str]
    values: tf.Tensor
    row_splits: tf.Tensor
    pads: tf.Tensor
    labels: tf.Tensor | None

    def known(self) -> Any:
        """Returns all tokens, and the labels of the examples if there are any."""
        return self.values if self.labels is None else (self.values, self.labels)

    def gather(self, rows: tf.Tensor, length: tf.Tensor, static_length: int | None) -> Any:
        """Returns the element of `make_dataset` that holds the examples `rows`, padded to `length`."""
        starts, ends = tf.gather(self.row_splits, rows), tf.gather(self.row_splits, rows + 1)
        positions = starts[:, tf.newaxis] + tf.range(length)
        inside = positions < ends[:, tf.newaxis]
        values = tf.gather(self.values, tf.minimum(positions, ends[:, tf.newaxis] - 1))
        values = tf.where(inside[..., tf.newaxis], values, self.pads)
        values = tf.ensure_shape(values, [None, static_length, self.values.shape[1]])
        columns = tf.unstack(values, axis=-1)
        x = dict(zip(self.names, columns, strict=False))
        if self.labels is not None:
            return x, tf.gather(self.labels, rows)
        if len(columns) == len(self.names):
            return x
        is_label = columns[-1] != self.pads[-1]
        return x, tf.where(is_label, columns[-1], 0), tf.cast(is_label, tf.float32)


def _flatten(
    features: Sequence[Mapping[str, np.ndarray]],
    labels: np.ndarray | Sequence[np.ndarray] | None,
    max_length: int,
    pad_values: Mapping[str, int],
    label_pad: int,
) -> _Store:
    if not len(features):
        raise DataError("There is no example to make batches of. Give at least one.")
    names = list(features[0])
    if sorted(names) != sorted(pad_values):
        raise DataError(
            f"The features are {names}, pad_values has {list(pad_values)}. Give one pad for each feature."
        )
    if labels is not None and len(labels) != len(features):
        raise DataError(
            f"{len(features)} examples have {len(labels)} labels. Give one entry for each example."
        )
    columns = {name: [example[name] for example in features] for name in names}
    pads = [pad_values[name] for name in names]
    example_labels = None
    if labels is not None and np.ndim(labels[0]) == 1:
        columns["labels"], pads = list(labels), [*pads, label_pad]
    elif labels is not None:
        example_labels = np.asarray(labels)
        if example_labels.dtype.kind in "iu":
            example_labels = example_labels.astype(np.int32)
    lengths = np.array([[len(row) for row in rows] for rows in columns.values()])
    bad = np.flatnonzero((lengths != lengths[0]).any(axis=0) | (lengths[0] > max_length) | (lengths[0] == 0))
    if bad.size:
        found = dict(zip(columns, lengths[:, bad[0]].tolist(), strict=True))
        raise DataError(
            f"Example {bad[0]} has lengths {found}; they must be equal, and between 1 and "
            f"max_length ({max_length}). Truncate the examples, or raise max_length."
        )
    values = np.stack([np.concatenate(rows) for rows in columns.values()], axis=1).astype(np.int32)
    # The batches are made on the host, also if this is called in the scope of a strategy for GPUs.
    with tf.device("CPU:0"):
        return _Store(
            names=names,
            values=tf.constant(values),
            row_splits=tf.constant(np.concatenate([[0], np.cumsum(lengths[0])])),
            pads=tf.constant(pads, tf.int32),
            labels=None if example_labels is None else tf.constant(example_labels),
        )
