"""The batches of an epoch, cut into one piece for each replica."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
from keras import tree
from tensorflow.python.data.experimental.ops.distribute import compute_batch_size

from tfdist._internals.fit.execution.iterators import in_graph
from tfdist._internals.fit.source import reads_ahead, watch_batches
from tfdist._internals.processes.coordination import all_gather_json
from tfdist._internals.replica.cut import LocalPieces, OwnShare, ReplicaBatch, cut_batch
from tfdist._internals.replica.device_input import untuned_devices
from tfdist._internals.rows import check_rows, count_rows, named_parts
from tfdist.data.by_index import ByIndex, by_index_of
from tfdist.data.sharding import auto_sharding_is_off, choose_shard_policy
from tfdist.errors import DataError
from tfdist.log import warn_once
from tfdist.process import num_processes


def _padded_size(dataset: tf.data.Dataset, batch_size: int | None, num_replicas: int) -> int:
    # The size is read off the dataset's graph: where the last batch may be smaller, the element spec does not say it.
    size = batch_size or int(compute_batch_size(dataset))
    if size < 1:
        raise DataError(
            f"this strategy needs batches of one static size, and the dataset does not say it: "
            f"{dataset.element_spec}. Batch with a fixed size and pad the last one: "
            "dataset = tfdist.data.pad_batches(dataset, batch_size)."
        )
    return -(-size // num_replicas)


class ReplicaBatches:
    """What Keras iterates in place of a dataset: for every global batch one `ReplicaBatch` on each replica.

    Attributes:
        element_spec: The element spec of the dataset.
        num_batches: Steps of an epoch, the same on all workers; None if they are unknown or have no end.
    """

    def __init__(
        self, strategy: Any, dataset: tf.data.Dataset, num_batches: int | None, batch_size: int | None = None
    ) -> None:
        self._strategy = strategy
        self._num_local = len(strategy.extended.worker_devices)
        self._padded_size: int | None = None
        if strategy.pads_batches:
            self._padded_size = _padded_size(dataset, batch_size, strategy.num_replicas_in_sync)
        several_workers = strategy.num_replicas_in_sync > self._num_local
        self._own_shares = several_workers and auto_sharding_is_off(dataset)
        if self._own_shares:
            warn_once(
                "auto-sharding is off for this dataset: each worker's batches are taken as its own part of the global "
                "batch, which is as large as all of them together."
            )
        source = by_index_of(dataset)
        self._watched = None if self._own_shares else watch_batches(None if source is None else source.known)
        self._missing_batches = 0
        self.element_spec = dataset.element_spec
        self.num_batches = num_batches
        if self._own_shares:
            self.num_batches = _longest(dataset)
            self._missing_batches = max(0, (self.num_batches or 0) - (num_batches or 0))
        # Batches need not be copied ahead to devices that are the host's own. All local pieces are then one element,
        # and an epoch begins without the functions that TensorFlow would trace for each device.
        if not reads_ahead(dataset):
            self._iterable = self._on_host(dataset)
        elif strategy.feeds_devices:
            self._iterable = self._fed_to_devices(dataset)
        else:
            self._iterable = self._on_host(dataset).prefetch(2)

    def __iter__(self) -> Iterator[Any]:
        with untuned_devices():
            return in_graph(iter(self._iterable), self.num_batches, self._again)

    def _again(self, batch: Any) -> Iterator[Any]:
        """Returns an iterator like that of an epoch, over one placed batch."""
        if not self._strategy.feeds_devices:
            return iter(_from_elements([batch], self._iterable.element_spec))
        pieces = pieces_of(self._strategy, batch)
        stream = _from_elements(pieces, self._piece_spec)
        with untuned_devices():
            return iter(self._distributed(stream))

    def _on_host(self, dataset: tf.data.Dataset) -> Any:
        source, whole, is_tuple = self._indices_of(dataset)
        if source is not None and source.elsewhere is not None:
            return self._prepared_elsewhere(source)

        @tf.autograph.experimental.do_not_convert
        def pieces(*batch: Any) -> LocalPieces:
            given = batch if is_tuple else batch[0]
            with tf.control_dependencies(check_rows(given)):
                return LocalPieces(
                    tuple(self._piece(source, given, index) for index in range(self._num_local))
                )

        @tf.autograph.experimental.do_not_convert
        def seen_pieces(number: Any, batch: Any) -> LocalPieces:
            self._show(number, source, batch)
            return pieces(*(batch if is_tuple else (batch,)))

        watched = self._watched is not None
        stream = self._mapped(
            whole.enumerate() if watched else whole, source, seen_pieces if watched else pieces
        )
        if self._missing_batches:
            nothing = stream.take(1).map(_without_rows)
            stream = stream.concatenate(nothing.cache().repeat(self._missing_batches))
        return stream

    def _prepared_elsewhere(self, source: ByIndex) -> tf.data.Dataset:
        """Returns the pieces of each batch, which other processes have cut and loaded for this one alone."""

        def numbers_and_pieces(batch: Any) -> tuple[Any, LocalPieces]:
            pieces = [self._piece(source, batch, tf.constant(index)) for index in range(self._num_local)]
            return tree.flatten(batch)[0], LocalPieces(tuple(pieces))

        @tf.autograph.experimental.do_not_convert
        def show(number: Any, shown: tuple[Any, LocalPieces]) -> LocalPieces:
            # The numbers have come with the rows, so what is compared between processes is what was prepared.
            self._show(number, source, shown[0])
            return shown[1]

        return source.prepared(numbers_and_pieces).enumerate().map(show)

    def _fed_to_devices(self, dataset: tf.data.Dataset) -> Any:
        source, whole, is_tuple = self._indices_of(dataset)
        if source is not None and source.elsewhere is not None:
            stream = self._prepared_elsewhere(source).flat_map(_one_by_one)
            self._piece_spec = stream.element_spec
            return self._distributed(stream.prefetch(2 * self._num_local))

        @tf.autograph.experimental.do_not_convert
        def once_for_each(*batch: Any) -> tf.data.Dataset:
            return tf.data.Dataset.from_tensors(batch if is_tuple else batch[0]).repeat(self._num_local)

        @tf.autograph.experimental.do_not_convert
        def piece(number: Any, batch: Any) -> Any:
            self._show(number // self._num_local, source, batch)
            with tf.control_dependencies(check_rows(batch)):
                return self._piece(source, batch, number % self._num_local)

        # All pieces are cut by one map, because a dataset for each batch would cost more than the cutting.
        stream = self._mapped(whole.flat_map(once_for_each).enumerate(), source, piece)
        if self._missing_batches:
            nothing = stream.take(1).map(_without_rows)
            stream = stream.concatenate(nothing.cache().repeat(self._missing_batches * self._num_local))
        self._piece_spec = stream.element_spec
        return self._distributed(stream.prefetch(2 * self._num_local))

    def _distributed(self, stream: tf.data.Dataset) -> Any:
        distributed = self._strategy.distribute_datasets_from_function(lambda _: stream)
        # Every batch has a piece for each replica, so that no step needs to ask which replicas have data left. Stock
        # asks, at the price of a collective in each step.
        distributed._enable_get_next_as_optional = False
        return distributed

    def _indices_of(self, dataset: tf.data.Dataset) -> tuple[ByIndex | None, tf.data.Dataset, bool]:
        """Returns the source of rows by number, if any; the batches or their numbers; whether these are tuples."""
        source = by_index_of(dataset)
        if not self._own_shares:
            # Every worker has the same batches, or the same row numbers, and keeps its own rows of them. If files or
            # elements were divided instead, the rows of a step would depend on the number of workers.
            policy = choose_shard_policy(0, num_processes(), "stream" if source is None else "array")
            policy.announce(num_processes())
        whole = dataset if source is None else source.indices()
        return source, whole, isinstance(whole.element_spec, tuple)

    def _show(self, number: Any, source: ByIndex | None, batch: Any) -> None:
        """Shows a batch, or its row numbers, to what compares it with those of the other workers."""
        if self._watched is not None:
            parts = named_parts(batch) if source is None else {"row numbers": tree.flatten(batch)[0]}
            self._watched.see_in_graph(number, parts)

    def _piece(self, source: ByIndex | None, batch: Any, index: Any) -> ReplicaBatch | OwnShare:
        """Returns the piece of a batch, or of its row numbers, that is for the local replica `index`."""
        if self._own_shares:
            own = cut_batch(batch, index, self._num_local, self._padded_size)
        else:
            first = self._strategy.process_index * self._num_local
            own = cut_batch(batch, first + index, self._strategy.num_replicas_in_sync, self._padded_size)
        if source is not None:
            own = own._replace(data=source.load_element(own.data))
        return OwnShare(own.data, own.num_valid) if self._own_shares else own

    @staticmethod
    def _mapped(stream: tf.data.Dataset, source: ByIndex | None, function: Any) -> tf.data.Dataset:
        # Loading rows by their numbers is worth several threads.
        parallel = {} if source is None else {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
        return stream.map(function, **parallel)


@tf.autograph.experimental.do_not_convert
def _one_by_one(local: LocalPieces) -> tf.data.Dataset:
    """Returns the pieces of all replicas of this process, one after the other."""
    datasets = [tf.data.Dataset.from_tensors(piece) for piece in local.pieces]
    return functools.reduce(tf.data.Dataset.concatenate, datasets)


def _from_elements(elements: Sequence[Any], spec: Any) -> tf.data.Dataset:
    """Returns a dataset of elements, with the spec of another one."""
    return tf.data.Dataset.from_generator(lambda: iter(elements), output_signature=spec)


def pieces_of(strategy: Any, batch: Any) -> list[Any]:
    """Returns the piece of a placed batch on each replica of this process."""
    if isinstance(batch, LocalPieces):
        return list(batch.pieces)
    leaves = tf.nest.flatten(batch)
    columns = [strategy.experimental_local_results(leaf) for leaf in leaves]
    return [
        tf.nest.pack_sequence_as(batch, [column[index] for column in columns])
        for index in range(max(map(len, columns), default=0))
    ]


def _without_rows(element: Any) -> Any:
    """Returns an element with shares of the same shapes whose rows do not count."""
    if isinstance(element, OwnShare):
        return OwnShare(element.data, tf.zeros_like(element.num_valid))
    return LocalPieces(tuple(_without_rows(piece) for piece in element.pieces))


def _longest(dataset: tf.data.Dataset) -> int | None:
    """Returns the largest number of batches that a worker has; None if the batches of one have no end."""
    counts = all_gather_json("number of batches of each worker", int(dataset.cardinality()))
    for index, count in enumerate(counts):
        if count == tf.data.UNKNOWN_CARDINALITY or count == 0:
            raise DataError(
                f"worker {index} has {'no batch' if count == 0 else 'a dataset of unknown length'}, and auto-sharding "
                "is off, so that the workers must agree on the number of steps. Give every worker at least one "
                "batch and state how many there are: dataset.apply(tf.data.experimental.assert_cardinality(n))."
            )
    return None if tf.data.INFINITE_CARDINALITY in counts else max(counts)


def place_one_batch(strategy: tf.distribute.Strategy, data: Any) -> Any:
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
    check_rows(data)
    first = strategy.process_index * len(strategy.extended.worker_devices)
    padded = -(-int(count_rows(data)) // strategy.num_replicas_in_sync) if strategy.pads_batches else None

    def piece(context: tf.distribute.experimental.ValueContext) -> ReplicaBatch:
        # The context may number the replicas of all processes, so the remainder gives the number within this one.
        replica = context.replica_id_in_sync_group % len(strategy.extended.worker_devices)
        return cut_batch(data, first + replica, strategy.num_replicas_in_sync, padded)

    return strategy.experimental_distribute_values_from_function(piece)
