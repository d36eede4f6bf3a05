"""Counts the rows of a batch, whatever it is made of."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import tree

from tfdist.errors import DataError


def count_rows(data: Any) -> Any:
    """Returns the number of rows of a batch, a scalar int64 tensor.

    Args:
        data: Nested dense, ragged and sparse tensors with one first dimension, the rows; and scalars.

    Raises:
        DataError: Nothing in the batch has rows.
    """
    for leaf in tree.flatten(data):
        if isinstance(leaf, tf.SparseTensor):
            return leaf.dense_shape[0]
        if isinstance(leaf, tf.RaggedTensor):
            return leaf.nrows(out_type=tf.int64)
        if tf.is_tensor(leaf) and leaf.shape.rank != 0:
            return tf.shape(leaf, out_type=tf.int64)[0]
    raise DataError(
        f"no part of the batch has a first dimension to divide over the replicas: {tree.map_structure(type, data)}. "
        "Batch the dataset, for example with dataset.batch(global_batch_size)."
    )
