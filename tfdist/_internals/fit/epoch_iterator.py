"""`fit` iterates batches that are cut by tfdist; see `replica_batch`."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TFEpochIterator
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.epoch_iterator import EpochIterator

from tfdist._internals.fit.source import agree_on_order, dataset_of
from tfdist._internals.processes import seed as shared_seed
from tfdist._internals.processes.coordination import all_gather_json
from tfdist._internals.registry import Patch
from tfdist._internals.replica.batches import DistributedBatches, is_distributed, needs_replica_batches
from tfdist.errors import DataError
from tfdist.process import num_processes


def _cut(stock: Any) -> Any:
    def __init__(self: Any, distribute_strategy: Any = None, *args: Any, **kwargs: Any) -> None:
        if not needs_replica_batches(distribute_strategy):
            return stock(self, distribute_strategy, *args, **kwargs)
        EpochIterator.__init__(self, *args, **kwargs)
        self._distribute_strategy = distribute_strategy
        dataset = dataset_of(self.data_adapter)
        if not is_distributed(dataset):
            dataset = distribute_strategy.distribute_batches(
                dataset, self._num_batches, self.data_adapter.batch_size
            )
            # Under a fixed seed Keras shuffles arrays to one and the same order in every epoch. A script that set the
            # seed gets that, as on one device; one that did not must not get it from the seed that tfdist shares.
            shuffled = isinstance(self.data_adapter, ArrayDataAdapter) and self.data_adapter._shuffle
            if shuffled and shared_seed.is_ours():
                dataset.renew = lambda: _in_new_order(self.data_adapter)
            self._num_batches = dataset.num_batches
        self._distributed_dataset = dataset
        if num_processes() > 1:
            agree_on_order(self.data_adapter)
            _check_same_number(self._num_batches)
        return None

    return __init__


def _in_new_order(adapter: ArrayDataAdapter) -> tf.data.Dataset:
    shared_seed.advance()
    return dataset_of(adapter)


def _agreed(stock: Any) -> Any:
    def reset(self: Any) -> None:
        stock(self)
        # Stock goes back to what the adapter says, which is this worker's own number.
        if isinstance(self._distributed_dataset, DistributedBatches):
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
        name="epoch_iterator",
        owner=TFEpochIterator,
        attribute="__init__",
        make=_cut,
        reason="batches that do not divide give replicas shares of unknown size, or none",
        upstream="https://github.com/keras-team/keras/issues/19246",
    ),
    Patch(
        name="epoch_iterator",
        owner=TFEpochIterator,
        attribute="reset",
        make=_agreed,
        reason="a worker with fewer batches than the others ends its epoch alone, and the others wait for ever",
        upstream="https://github.com/tensorflow/tensorflow/issues/33531",
    ),
)
