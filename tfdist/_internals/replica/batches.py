"""Cuts global batches into one piece for each replica and says how many rows of each piece count.

Stock tf.distribute rebatches and leaves a replica with nothing, or with a share that nobody knows the size of, when a
batch does not divide. Here every replica gets a piece of nearly equal size together with its row count and the global
one; a replica that would have none gets one row that does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf
from keras import tree
from tensorflow.python.data.experimental.ops.distribute import compute_batch_size
from tensorflow.python.distribute import input_lib

from tfdist._internals.processes.coordination import all_gather_json
from tfdist._internals.replica.device_input import untuned_devices
from tfdist.data.by_index import halves
from tfdist.data.sharding import choose_shard_policy
from tfdist.errors import DataError
from tfdist.log import warn_once
from tfdist.process import num_processes


class ReplicaBatch(NamedTuple):
    """One replica's piece of a global batch: `data` as the user gave it, and scalar int64 row counts."""

    data: Any
    num_valid: Any
    num_global: Any


class OwnShare(NamedTuple):
    """A replica's piece of a batch that only this worker has; how many rows the others have is asked in the step."""

    data: Any
    num_valid: Any


def count_rows(data: Any) -> Any:
    """Returns the number of rows of a batch, a scalar int64 tensor."""
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


def _cut(leaf: Any, start: Any, size: Any, num_replicas: int, padded_size: int | None) -> Any:
    if isinstance(leaf, tf.SparseTensor):
        rest = leaf.dense_shape[1:]
        piece = tf.sparse.slice(
            leaf, tf.concat([[start], tf.zeros_like(rest)], 0), tf.concat([[size], rest], 0)
        )
        return tf.SparseTensor(piece.indices, piece.values, tf.concat([[size], rest], 0))
    if isinstance(leaf, tf.RaggedTensor):
        return leaf[start : start + size]
    if not tf.is_tensor(leaf) or leaf.shape.rank == 0:
        return leaf
    if padded_size is None:
        if leaf.shape.rank is None:
            return leaf[start : start + size]
        # Where all batches divide evenly the size is known, and with it the shapes of the whole step: gradients of
        # broadcasts and sums then need no work at run time.
        num_rows = leaf.shape[0]
        even = num_rows // num_replicas if num_rows and num_rows % num_replicas == 0 else None
        return tf.ensure_shape(leaf[start : start + size], [even, *leaf.shape[1:]])
    # Padding repeats the last row, so that it is as harmless to the model as any real row.
    rows = tf.minimum(start + tf.range(padded_size, dtype=tf.int64), start + size - 1)
    return tf.ensure_shape(tf.gather(leaf, rows), [padded_size, *leaf.shape[1:]])


def first_row(replica: Any, num_rows: Any, num_replicas: int) -> Any:
    """Returns where the piece of `replica` begins in a global batch of `num_rows`, a scalar int64 tensor."""
    return tf.cast(replica, tf.int64) * num_rows // num_replicas


def cut_batch(data: Any, replica: Any, num_replicas: int, padded_size: int | None = None) -> ReplicaBatch:
    """Returns the piece of a global batch that is for `replica` of `num_replicas`.

    Args:
        data: Nested dense, ragged and sparse tensors with one first dimension, the rows; scalars go to all replicas.
        replica: Int or scalar int64 tensor.
        num_replicas: How many pieces there are.
        padded_size: Rows of each piece after padding, for static shapes; None leaves the sizes as they fall.
    """
    num_rows = count_rows(data)
    begin, end = (first_row(index, num_rows, num_replicas) for index in (replica, replica + 1))
    start = tf.minimum(begin, num_rows - 1)
    size = tf.maximum(end - begin, 1)
    piece = tree.map_structure(
        lambda leaf: _cut(leaf, start, size, num_replicas, padded_size), data, none_is_leaf=False
    )
    return ReplicaBatch(piece, end - begin, num_rows)


def _padded_size(dataset: tf.data.Dataset, batch_size: int | None, num_replicas: int) -> int:
    # Read off the dataset's graph, since batch() says no size in the element spec where the last may be smaller.
    size = batch_size or int(compute_batch_size(dataset))
    if size < 1:
        raise DataError(
            f"this strategy needs batches of one static size, and the dataset does not say it: "
            f"{dataset.element_spec}. Batch with a fixed size and pad the last one: "
            "dataset = tfdist.data.pad_batches(dataset, batch_size)."
        )
    return -(-size // num_replicas)


class DistributedBatches:
    """What Keras iterates in place of a dataset: for every global batch one `ReplicaBatch` on each replica.

    Attributes:
        element_spec: The dataset's.
        num_batches: Steps of an epoch, the same on all workers; None if unknown or without end.
        renew: If set, makes the dataset anew for every epoch.
    """

    def __init__(
        self, strategy: Any, dataset: tf.data.Dataset, num_batches: int | None, batch_size: int | None = None
    ) -> None:
        self._strategy = strategy
        self._num_local = len(strategy.extended.worker_devices)
        self._padded_size: int | None = None
        if strategy.static_shapes:
            self._padded_size = _padded_size(dataset, batch_size, strategy.num_replicas_in_sync)
        several_workers = strategy.num_replicas_in_sync > self._num_local
        self._own_shares = several_workers and auto_sharding_is_off(dataset)
        if self._own_shares:
            warn_once(
                "auto-sharding is off for this dataset: each worker's batches are taken as its own part of the global "
                "batch, which is as large as all of them together."
            )
        self._missing_batches = 0
        self.element_spec = dataset.element_spec
        self.num_batches = num_batches
        if self._own_shares:
            self.num_batches = _longest(dataset)
            self._missing_batches = max(0, (self.num_batches or 0) - (num_batches or 0))
        self.renew: Callable[[], tf.data.Dataset] | None = None
        self._distributed = self._distribute(dataset)

    def __iter__(self) -> Iterator[Any]:
        with untuned_devices():
            iterator = iter(self._distributed if self.renew is None else self._distribute(self.renew()))
        # Known lengths let several steps run in one call without asking after each who has data left.
        iterator._tfdist_remaining = self.num_batches
        return iterator

    def _distribute(self, dataset: tf.data.Dataset) -> Any:
        stream = self._own_pieces(dataset) if self._own_shares else self._pieces_of_global_batches(dataset)
        stream = stream.prefetch(2 * self._num_local)
        distributed = self._strategy.distribute_datasets_from_function(lambda _: stream)
        # There are always as many pieces as replicas, so that no step needs to ask who still has data; stock asks,
        # at the price of a collective a step.
        distributed._enable_get_next_as_optional = False
        return distributed

    def _pieces_of_global_batches(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        # No sharding by files or elements: every worker has the same batches, or their row numbers, and keeps its own
        # rows, or else which rows meet in a step would depend on the number of workers.
        choose_shard_policy(0, num_processes(), "stream" if halves(dataset) is None else "array")
        first = self._strategy.process_index * self._num_local
        return self._pieces(dataset, first, self._strategy.num_replicas_in_sync)

    def _own_pieces(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        stream = self._pieces(dataset, 0, self._num_local)
        stream = stream.map(lambda piece: OwnShare(piece.data, piece.num_valid))
        if self._missing_batches:
            nothing = stream.take(1).map(lambda own: OwnShare(own.data, tf.zeros_like(own.num_valid)))
            stream = stream.concatenate(nothing.cache().repeat(self._missing_batches * self._num_local))
        return stream

    def _pieces(self, dataset: tf.data.Dataset, first: int, num_replicas: int) -> tf.data.Dataset:
        source = halves(dataset)
        whole = dataset if source is None else source.indices
        is_tuple = isinstance(whole.element_spec, tuple)

        def once_for_each(*batch: Any) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensors(batch if is_tuple else batch[0]).repeat(self._num_local)

        def piece(number: Any, batch: Any) -> ReplicaBatch:
            replica = first + number % self._num_local
            own = cut_batch(batch, replica, num_replicas, self._padded_size)
            return own if source is None else own._replace(data=source.load_element(own.data))

        # One map for all batches: a dataset made for each batch costs more than the cutting.
        stream = whole.flat_map(once_for_each).enumerate()
        if source is None:
            return stream.map(piece)
        return stream.map(piece, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def auto_sharding_is_off(dataset: tf.data.Dataset) -> bool:
    """Returns whether the dataset says that every process has batches of its own."""
    policy = dataset.options().experimental_distribute.auto_shard_policy
    return bool(policy == tf.data.experimental.AutoShardPolicy.OFF)


def _longest(dataset: tf.data.Dataset) -> int | None:
    """Returns the largest number of batches that a worker has; None if one has no end."""
    counts = all_gather_json("number of batches of each worker", int(dataset.cardinality()))
    for index, count in enumerate(counts):
        if count == tf.data.UNKNOWN_CARDINALITY or count == 0:
            raise DataError(
                f"worker {index} has {'no batch' if count == 0 else 'a dataset of unknown length'}, and auto-sharding "
                "is off, so that the workers must agree on the number of steps. Give every worker at least one "
                "batch and state how many there are: dataset.apply(tf.data.experimental.assert_cardinality(n))."
            )
    return None if tf.data.INFINITE_CARDINALITY in counts else max(counts)


def needs_replica_batches(strategy: Any) -> bool:
    """Returns whether `strategy` is one of tfdist's that cuts batches itself."""
    return bool(getattr(strategy, "cuts_batches", False))


def is_distributed(dataset: Any) -> bool:
    """Returns whether the user distributed the dataset already."""
    return isinstance(dataset, (input_lib.DistributedDataset, input_lib.DistributedDatasetsFromFunction))


def distribute_one_batch(strategy: tf.distribute.Strategy, data: Any) -> Any:
    """Returns a batch, given whole to every process, as one `ReplicaBatch` for each local replica."""
    data = tree.map_structure(
        lambda leaf: (
            leaf
            if leaf is None or tf.is_tensor(leaf) or isinstance(leaf, tf.RaggedTensor)
            else tf.convert_to_tensor(leaf)
        ),
        data,
        none_is_leaf=False,
    )
    first = strategy.process_index * len(strategy.extended.worker_devices)
    padded = -(-int(count_rows(data)) // strategy.num_replicas_in_sync) if strategy.static_shapes else None

    def piece(context: tf.distribute.experimental.ValueContext) -> ReplicaBatch:
        # The context numbers the replicas of this process only.
        replica = context.replica_id_in_sync_group % len(strategy.extended.worker_devices)
        return cut_batch(data, first + replica, strategy.num_replicas_in_sync, padded)

    return strategy.experimental_distribute_values_from_function(piece)
