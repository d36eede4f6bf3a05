"""What `fit` was given, as a dataset of global batches that are the same on every worker.

Arrays, and what `tfdist.data` makes, are known by the numbers of their rows (`tfdist.data.by_index`), so that a
replica's rows are gathered for it alone. A `PyDataset` or a dataset of the user's own is made whole on every worker.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

from tfdist._internals.processes.coordination import broadcast_json
from tfdist.data.by_index import ByIndex


def dataset_of(adapter: Any) -> tf.data.Dataset:
    """Returns the global batches of one of Keras's data adapters."""
    if isinstance(adapter, ArrayDataAdapter) and adapter._shuffle != "batch":
        arrays = tree.lists_to_tuples(
            array_slicing.convert_to_sliceable(adapter._inputs, target_backend="tensorflow")
        )
        if all(isinstance(leaf, tf.Tensor) for leaf in tree.flatten(arrays) if leaf is not None):
            return ByIndex(_row_numbers(adapter), lambda rows: _gather(arrays, rows)).dataset()
    return adapter.get_tf_dataset()


def _row_numbers(adapter: ArrayDataAdapter) -> tf.data.Dataset:
    """Returns Keras's own batches, in its own order, of the numbers of the rows in place of the rows."""
    numbers = copy.copy(adapter)
    numbers._inputs = np.arange(adapter._num_samples)
    return numbers.get_tf_dataset()


def _gather(arrays: Any, rows: tf.Tensor) -> Any:
    return tree.map_structure(lambda leaf: None if leaf is None else tf.gather(leaf, rows), arrays)


def agree_on_order(adapter: Any) -> None:
    """Makes a shuffled `PyDataset` show its batches in the chief's order on every worker.

    Keras draws the order from Python's `random`, which nobody has seeded alike, or which the dataset itself draws
    from at the pace of this worker's threads: so the chief's state is taken anew for every epoch.
    """
    if not isinstance(adapter, PyDatasetAdapter) or not adapter.shuffle:
        return
    begin_epoch = adapter.on_epoch_begin

    def on_epoch_begin() -> None:
        version, numbers, gauss = broadcast_json("the order of a PyDataset", random.getstate())
        random.setstate((version, tuple(numbers), gauss))
        begin_epoch()

    adapter.on_epoch_begin = on_epoch_begin
