"""`fit` iterates batches that the strategy places; an evaluation leaves the order of training epochs as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from keras import tree
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from keras.src.trainers.epoch_iterator import EpochIterator
from tensorflow.python.distribute import input_lib

from tfdist._internals.contract import Distribution, distribution_of
from tfdist._internals.fit.execution.iterators import in_graph
from tfdist._internals.fit.source import agree_on_order, dataset_of, opens_training
from tfdist._internals.patch import Patch
from tfdist._internals.processes.coordination import all_gather_json
from tfdist.data.by_index import by_index_of
from tfdist.errors import DataError
from tfdist.process import num_processes

_DISTRIBUTED = (input_lib.DistributedDataset, input_lib.DistributedDatasetsFromFunction)


class _DistributedByUser:
    """A dataset that the user distributed."""

    def __init__(self, dataset: Any, num_batches: int | None) -> None:
        self._dataset = dataset
        self.num_batches = num_batches
        # The dataset has one spec for each replica, and they are equal.
        self.element_spec = tree.map_structure(
            lambda leaf: getattr(leaf, "_value_specs", (leaf,))[0], dataset.element_spec
        )

    def __iter__(self) -> Iterator[Any]:
        return in_graph(iter(self._dataset))


def _placed(stock: Any) -> Any:
    def __init__(self: Any, distribute_strategy: Any = None, *args: Any, **kwargs: Any) -> None:
        distribution = distribution_of(distribute_strategy)
        if distribution is None:
            stock(self, distribute_strategy, *args, **kwargs)
            self._distributed_dataset = _of_current_call(self._distributed_dataset)
            return
        EpochIterator.__init__(self, *args, **kwargs)
        self._distribute_strategy = distribute_strategy
        self._distributed_dataset = _batches(self, distribution)
        self._num_batches = self._distributed_dataset.num_batches
        if num_processes() > 1:
            agree_on_order(self.data_adapter)
            _check_same_number(self._num_batches)

    return __init__


def _of_current_call(dataset: Any) -> Any:
    """Returns the dataset; if it is one of `tfdist.data` and is not trained on, so that its epoch does not advance."""
    training = opens_training()
    by_index = by_index_of(dataset) if isinstance(dataset, tf.data.Dataset) else None
    return dataset if by_index is None or training else by_index.held().dataset()


def _batches(iterator: Any, distribution: Distribution) -> Any:
    dataset = dataset_of(iterator.data_adapter)
    if isinstance(dataset, _DISTRIBUTED):
        return _DistributedByUser(dataset, iterator._num_batches)
    return distribution.batches(dataset, iterator._num_batches, iterator.data_adapter.batch_size)


def _agreed(stock: Any) -> Any:
    def reset(self: Any) -> None:
        stock(self)
        # Stock goes back to the adapter's number, which counts the batches of this process alone.
        if distribution_of(self._distribute_strategy) is not None:
            self._num_batches = self._distributed_dataset.num_batches

    return reset


def _check_same_number(own: int | None) -> None:
    counts = all_gather_json("number of batches", None if own is None else int(own))
    if len(set(counts)) > 1:
        raise DataError(
            f"the workers have different numbers of batches: {counts}. Give every worker the same dataset, of which "
            "each takes its rows; or, where each worker has rows of its own, say so with auto_shard_policy = "
            "tf.data.experimental.AutoShardPolicy.OFF in the dataset's options."
        )


PATCHES = (
    Patch(
        name="fit.epoch_iterator",
        owner=TFEpochIterator,
        attribute="__init__",
        make=_placed,
        reason="batches that do not divide give replicas shares of unknown size, or none",
        upstream="https://github.com/keras-team/keras/issues/19246",
    ),
    Patch(
        name="fit.epoch_iterator",
        owner=TFEpochIterator,
        attribute="reset",
        make=_agreed,
        reason="a worker with fewer batches than the others ends its epoch alone, and the others wait for ever",
        upstream="https://github.com/tensorflow/tensorflow/issues/33531",
    ),
)
