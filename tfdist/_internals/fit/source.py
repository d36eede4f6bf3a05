"""Turns what `fit` was given into a dataset of global batches that are the same in every process.

Arrays, and the datasets of `tfdist.data`, are known by the numbers of their rows (`tfdist.data.by_index`), so that only
the rows of a replica are gathered for it. Every process makes all batches of a `PyDataset` or of a dataset of the
user's own.
"""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

from tfdist._internals.fit.agreement.batches import Seen, WatchedBatches
from tfdist._internals.processes import seed
from tfdist._internals.processes.coordination import broadcast_json
from tfdist.data.by_index import ByIndex, Epochs, by_index_of
from tfdist.process import num_processes

_local = threading.local()


@dataclass
class _Call:
    """A call of fit, evaluate or predict, how many sources of batches it has opened, and what is known of these.

    An evaluation within `fit` shares the batches of the `fit`.
    """

    name: str
    watched: list[WatchedBatches]
    num_sources: int = 0


@contextmanager
def call_scope(name: str) -> Iterator[None]:
    """Surrounds a call of `fit`, `evaluate` or `predict`."""
    before = getattr(_local, "call", None)
    _local.call = _Call(name, [] if before is None else before.watched)
    try:
        yield
    finally:
        _local.call = before


def current_call() -> str | None:
    """Returns the name of the call of `fit`, `evaluate` or `predict` that is under way, if any."""
    call = getattr(_local, "call", None)
    return None if call is None else call.name


def opens_training() -> bool:
    """Returns whether the source that is being opened is the one that `fit` trains on: the first that it opens."""
    call = getattr(_local, "call", None)
    if call is None:
        return True
    call.num_sources += 1
    return call.name == "fit" and call.num_sources == 1


def watch_batches(known: Any = None) -> WatchedBatches | None:
    """Returns what is to be shown the batches of a source that is opened; None in one process.

    Args:
        known: Rows of the source that are there before any batch is made, nested as a batch is.
    """
    call = getattr(_local, "call", None)
    if call is None or num_processes() == 1:
        return None
    call.watched.append(WatchedBatches(known))
    return call.watched[-1]


def seen_batches() -> list[Seen]:
    """Returns what is known of the batches of the current call, for each source."""
    return [watched.seen for watched in _local.call.watched]


def dataset_of(adapter: Any) -> tf.data.Dataset:
    """Returns the global batches of one of Keras's data adapters; opens it as a source of the current call."""
    training = opens_training()
    if isinstance(adapter, ArrayDataAdapter):
        return _of_arrays(adapter).dataset()
    dataset = adapter.get_tf_dataset()
    by_index = by_index_of(dataset)
    return dataset if by_index is None or training else by_index.held().dataset()


def reads_ahead(dataset: tf.data.Dataset) -> bool:
    """Returns whether batches may be read before they are asked for.

    The workers of a `PyDataset` rest between epochs, and fail if they are asked then. Keras reads ahead by these
    workers alone, and says so in the options of the dataset.
    """
    options = dataset.options()
    return options.autotune.enabled is not False or options.threading.private_threadpool_size != 1


def _of_arrays(adapter: ArrayDataAdapter) -> ByIndex:
    arrays = tree.lists_to_tuples(
        array_slicing.convert_to_sliceable(adapter._inputs, target_backend="tensorflow")
    )
    with tf.device("CPU:0"):
        arrays = tree.map_structure(_as_tensor, arrays, none_is_leaf=False)

    def load(rows: tf.Tensor) -> Any:
        return tree.traverse(lambda leaf: _rows_of(leaf, rows), arrays)

    # Under a fixed seed Keras shuffles arrays to the same order in every epoch. A script that has set the seed gets
    # this order, as on one device. A script without a seed must get a new order in every epoch, although tfdist then
    # shares a seed of its own.
    shuffles_anew = adapter._shuffle and seed.is_ours()
    indices_of = _own_order(adapter) if shuffles_anew else _order_of_keras(adapter)
    return ByIndex(indices_of, load, adapter._size, Epochs(), known=arrays)


def _as_tensor(leaf: Any) -> Any:
    return tf.convert_to_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf


def _rows_of(leaf: Any, rows: tf.Tensor) -> Any:
    if isinstance(leaf, array_slicing.TensorflowSparseWrapper):
        return array_slicing.slice_tensorflow_sparse_wrapper(leaf, rows)
    if isinstance(leaf, (list, tuple, dict)):
        return None
    return tf.gather(leaf, rows, axis=0) if tf.is_tensor(leaf) else leaf


def _order_of_keras(adapter: ArrayDataAdapter) -> Any:
    """Returns Keras's own batches in their own order, with the numbers of the rows in place of the rows."""
    if not adapter._shuffle:
        return lambda epoch: tf.data.Dataset.range(adapter._num_samples).batch(adapter._batch_size)
    numbers = copy.copy(adapter)
    numbers._inputs = np.arange(adapter._num_samples)
    batches = numbers.get_tf_dataset()
    return lambda epoch: batches


def _own_order(adapter: ArrayDataAdapter) -> Any:
    """Returns batches in an order that is a function of the shared seed and the epoch."""
    count, size, own_seed = adapter._num_samples, adapter._batch_size, seed.global_seed()

    def order_of(epoch: np.int64) -> np.ndarray:
        generator = np.random.default_rng([own_seed or 0, int(epoch)])
        if adapter._shuffle != "batch":
            return generator.permutation(count)
        # Keras's "batch" shuffles the rows within each batch.
        return np.concatenate(
            [
                generator.permutation(np.arange(start, min(start + size, count)))
                for start in range(0, count, size)
            ]
        )

    def indices_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.ensure_shape(tf.numpy_function(order_of, [epoch], tf.int64), [count])
        return tf.data.Dataset.from_tensor_slices(order).batch(size)

    return indices_of


def agree_on_order(adapter: Any) -> None:
    """Makes a shuffled `PyDataset` show its batches in the chief's order in every process.

    Keras draws the order from Python's `random`. The processes need not have seeded it alike, and the dataset may draw
    from it too, at the pace of its threads. So every process takes over the chief's state before every epoch.
    """
    if not isinstance(adapter, PyDatasetAdapter) or not adapter.shuffle:
        return
    begin_epoch = adapter.on_epoch_begin

    def on_epoch_begin() -> None:
        version, numbers, gauss = broadcast_json("the order of a PyDataset", random.getstate())
        random.setstate((version, tuple(numbers), gauss))
        begin_epoch()

    adapter.on_epoch_begin = on_epoch_begin
