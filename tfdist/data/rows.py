"""A dataset from a Python function that loads rows by their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

from tfdist.data.by_index import ByIndex, Epochs, check_at_least
from tfdist.errors import DataError


def rows_dataset(
    load: Callable[[Any], Any],
    num_rows: int,
    *,
    global_batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    first_epoch: int = 0,
    in_graph: bool = False,
) -> tf.data.Dataset:
    """Returns batches of the rows that `load` gives by their numbers (a map-style dataset).

    Under several workers, each worker calls `load` for its own rows only, and the rows of a step are still those of one
    device. A `keras.utils.PyDataset` cannot do that, because it makes whole batches.

    Args:
        load: From row numbers, int64 of shape (rows,), to nested arrays whose first dimension is these rows: `x`,
            `(x, y)` or `(x, y, sample_weight)`. It is called from several threads at once, with one row or more. The
            dtypes, and all dimensions but the first, must always be the same.
        num_rows: Rows of an epoch; numbers run from 0 to `num_rows - 1`.
        global_batch_size: Rows of one step, over all replicas and workers; the last batch may be smaller.
        shuffle: Show the rows in a new order each epoch, as `seed` and the epoch say.
        seed: Seed of the order; must be the same on every worker.
        first_epoch: Number of the epoch that the first iteration shows. Each further iteration shows the next epoch,
            except that `evaluate` and `predict` under a tfdist strategy leave the order as it is.
        in_graph: `load` is made of TensorFlow's operations: it takes and returns tensors, and is traced as
            `tf.data.Dataset.map` traces a function. Other processes can then run it, see `tfdist.data.distribute`.

    Returns:
        A dataset of known cardinality.

    Raises:
        DataError: A number is out of range, or `load` returns something without rows, or another number of rows than it
            was asked for.
    """
    check_at_least(1, num_rows=num_rows, global_batch_size=global_batch_size)
    check_at_least(0, seed=seed, first_epoch=first_epoch)

    load_rows, first = (load, None) if in_graph else _as_tensors(load)

    def order_of(epoch: np.int64) -> np.ndarray:
        if not shuffle:
            return np.arange(num_rows)
        return np.random.default_rng([seed, int(epoch)]).permutation(num_rows)

    def indices_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.ensure_shape(tf.numpy_function(order_of, [epoch], tf.int64), [num_rows])
        return tf.data.Dataset.from_tensor_slices(order).batch(global_batch_size)

    num_batches = -(-num_rows // global_batch_size)
    return ByIndex(indices_of, load_rows, num_batches, Epochs(first_epoch), known=first).dataset()


def _as_tensors(load: Callable[[np.ndarray], Any]) -> tuple[Callable[[tf.Tensor], Any], Any]:
    """Returns `load` as a function of tensors, which checks the arrays that `load` returns, and the first row."""

    def arrays(numbers: np.ndarray) -> Any:
        found = tree.map_structure(np.asarray, load(numbers), none_is_leaf=False)
        shapes = [leaf.shape for leaf in tree.flatten(found)]
        if not shapes or any(not shape or shape[0] != len(numbers) for shape in shapes):
            raise DataError(
                f"load was asked for {len(numbers)} rows and gave arrays of shapes {shapes}. The first dimension of "
                "each must be the rows that it was asked for."
            )
        return found

    template = tree.lists_to_tuples(arrays(np.zeros(1, np.int64)))
    leaves = tree.flatten(template)

    def load_rows(numbers: tf.Tensor) -> Any:
        loaded = tf.numpy_function(
            lambda rows: [
                leaf.astype(like.dtype, copy=False)
                for leaf, like in zip(tree.flatten(arrays(rows)), leaves, strict=True)
            ],
            [numbers],
            [tf.as_dtype(leaf.dtype) for leaf in leaves],
        )
        shaped = [tf.ensure_shape(x, [None, *leaf.shape[1:]]) for x, leaf in zip(loaded, leaves, strict=True)]
        return tree.pack_sequence_as(template, shaped)

    return load_rows, template
